//! Packets that nodes do not let through.

use integration_tests::cluster::Cluster;
use integration_tests::cluster::looks::output;

/// Packets that are not let through, until it goes.
pub(crate) struct Wall {
    cluster: Cluster,
    node: String,
}

impl Wall {
    /// Nothing goes from a pod on that node to the API server.
    pub(crate) fn between(cluster: &Cluster, node: &str, pod: &str) -> Self {
        let rule = format!("ip saddr {pod} tcp dport 6443 drop");
        Self::build(cluster, node, &format!("type filter hook forward priority 0; {rule}"))
    }

    /// Nobody reaches the API server, not even on its own machine.
    pub(crate) fn around_the_api_server(cluster: &Cluster) -> Self {
        Self::build(cluster, "control-plane", "type filter hook input priority 0; tcp dport 6443 drop")
    }

    /// A chain of nftables there, in a table of its own; one at a time.
    pub(crate) fn build(cluster: &Cluster, node: &str, chain: &str) -> Self {
        let wall = Self { cluster: cluster.clone(), node: node.to_owned() };
        let table = format!("table ip wall {{\n chain wall {{\n  {chain}\n }}\n}}\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table).unwrap();
        output(&mut cluster.on_node(node, &["nft", "--file", &file.path().to_string_lossy()])).unwrap();
        wall
    }
}

impl Drop for Wall {
    fn drop(&mut self) {
        let _ = self.cluster.on_node(&self.node, &["nft", "delete", "table", "ip", "wall"]).status();
    }
}
