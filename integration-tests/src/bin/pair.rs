//! Two pods for the benchmark: `pair mesh` with the whole mesh around them, `pair bare` with nothing. Prints where they are as one
//! line of JSON, and holds them until standard input closes.

use std::io::Read;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::bail;
use integration_tests::mesh::manifests::{Service, ServicePort, write};
use integration_tests::mesh::{Mesh, NAMESPACE, Pod, Settings, service_address};
use serde_json::json;

fn main() -> anyhow::Result<()> {
    let argument = std::env::args().nth(1);
    let in_mesh = match argument.as_deref() {
        Some("mesh") => true,
        Some("bare") => false,
        _ => bail!("say `pair mesh` or `pair bare`"),
    };
    let mut mesh = Mesh::start(Settings { controllers: usize::from(in_mesh), ..Settings::default() })?;
    let service: IpAddr = service_address(10).into();
    let mut ready_seconds = 0.0;
    let (client, server) = if in_mesh {
        let ports = [
            ServicePort { port: 8080, target: 8080, protocol: None },
            ServicePort { port: 9000, target: 9000, protocol: Some("tcp") },
        ];
        mesh.service(&Service { name: "server", address: service, ports: &ports })?;
        write(&mesh.manifests(0), "route", &route().to_string())?;
        let client = mesh.pod("client-1", "client")?;
        let started = Instant::now();
        let server = mesh.pod("server-1", "server")?;
        ready_seconds = Instant::now().duration_since(started).as_secs_f64();
        (client, server)
    } else {
        (mesh.bare_pod("client-1", "client")?, mesh.bare_pod("server-1", "server")?)
    };
    let pod =
        |pod: &Pod| json!({"net": pod.net(), "address": pod.addresses[0], "proxy": pod.proxy.as_ref().map(|p| p.id())});
    println!(
        "{}",
        json!({"client": pod(&client), "server": pod(&server), "service": service, "directory": mesh.path(), "ready_seconds": ready_seconds})
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A route that matches everything, as most users have one.
fn route() -> serde_json::Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "server", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "server", "port": 8080}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [{"name": "server", "port": 8080}]}],
        },
    })
}
