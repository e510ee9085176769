//! Where API servers call from, as far as the cluster says so: the addresses in the EndpointSlice `default/kubernetes`.
//!
//! API servers behind a proxy of their own (konnectivity), or whose calls are masqueraded on their way, have other addresses;
//! `--api-server-network` names those. Whoever is taken for one is not believed more than others: it waits less.

use std::net::IpAddr;

use controller_runtime::kubernetes::watch_named;
use controller_runtime::preferred::Preferred;
use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};

/// Keeps the addresses current; never returns.
pub async fn follow(client: Client, preferred: Preferred) {
    let api = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
    let mut objects = std::pin::pin!(watch_named(api, NAME, "the EndpointSlice of the API servers"));
    while let Some(object) = objects.next().await {
        let addresses = object.as_ref().map(addresses).unwrap_or_default();
        tracing::debug!(?addresses, "addresses of API servers");
        preferred.set_addresses(addresses);
    }
}

fn addresses(slice: &EndpointSlice) -> Vec<IpAddr> {
    let all = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    all.filter_map(|address| address.parse().ok()).take(MOST).collect()
}

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// Of as many as an EndpointSlice has.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_address_is_left_out() {
        let slice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["172.18.0.2", "api.example"]}, {"addresses": ["172.18.0.3"]}],
        }));
        let expected: Vec<IpAddr> = ["172.18.0.2", "172.18.0.3"].map(|text| text.parse().unwrap()).into();
        assert_eq!(addresses(&slice.unwrap()), expected);
    }
}
