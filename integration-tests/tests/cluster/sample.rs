//! A sample application of what people run: HTTP/1.1, gRPC, Redis, Jobs, and a StatefulSet whose peers call each other by
//! name; and what an operator must see of it in the mesh.

use std::fmt::Display;
use std::time::Duration;

use integration_tests::cluster::{
    Namespace, container, deployment_manifest, job_manifest, server_manifest, service_manifest,
};
use integration_tests::mesh::eventually;
use integration_tests::traffic::load::LoadReport;
use proto::names::metric;
use serde_json::Value;

/// What is not as it must be, by who says so.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// `meshctl stat`, while it runs.
    pub(crate) stat: Vec<String>,
    /// `meshctl edges`, while it runs.
    pub(crate) edges: Vec<String>,
    /// What the proxies of the servers have counted, from the first connection to the last.
    pub(crate) counts: Vec<String>,
}

/// Starts the servers in a namespace, then their clients, and looks at them in the middle and at the end.
pub(crate) fn problems(namespace: &Namespace) -> Problems {
    namespace.apply(&servers()).unwrap();
    namespace.rolled_out().unwrap();
    namespace.apply(&CLIENTS.map(|client| client.job()).concat()).unwrap();
    for client in &CLIENTS {
        namespace.wait_for(&format!("job/{}", client.job), "{.status.ready}", |ready| ready == "1").unwrap();
    }
    let scope = ["--namespace", &namespace.name, "--window=12s"];
    let ask = |command: &str| namespace.cluster.meshctl_json(&[&[command], &scope[..]].concat()).unwrap();
    let (stat, edges) = std::thread::scope(|scope| {
        let edges = scope.spawn(|| ask("edges"));
        (ask("stat"), edges.join().unwrap())
    });
    let mut problems = Problems::default();
    for flow in &FLOWS {
        flow.check_row(&stat, &mut problems.stat);
    }
    check_edges(&edges, &mut problems.edges);
    for flow in &FLOWS {
        if let Err(error) = flow.check_counts(namespace, &mut problems.counts) {
            problems.counts.push(format!("{}: {error:#}", flow.server));
        }
    }
    problems
}

/// All that arrives at one server.
struct Flow {
    client: &'static str,
    server: &'static str,
    protocol: &'static str,
    pods: u64,
    /// Requests per second of all its clients together.
    rate: f64,
}

/// One Job.
struct Client {
    job: &'static str,
    arguments: &'static str,
}

impl Client {
    fn job(&self) -> String {
        let arguments = format!("[load, --seconds={SECONDS}, {}]", self.arguments);
        format!("---{}", job_manifest(self.job, &arguments))
    }
}

impl Flow {
    fn check_row(&self, stat: &Value, problems: &mut Vec<String>) {
        let rows = stat["rows"].as_array().unwrap();
        let Some(row) = rows.iter().find(|row| row["name"] == self.server) else {
            return problems.push(format!("no row of {}: {stat}", self.server));
        };
        let mut expect = |what: &str, seen: &Value, expected: Value| {
            if *seen != expected {
                problems.push(format!("{what} of {} is {seen}, not {expected}", self.server));
            }
        };
        expect("MESHED", &row["meshed"], [self.pods, self.pods].into());
        expect("MTLS", &row["mtls"], 1.0.into());
        if self.protocol != "tcp" {
            expect("SUCCESS", &row["success"], 1.0.into());
        }
        problems.extend(self.check_rate(row));
    }

    fn check_edge(&self, edge: &Value, problems: &mut Vec<String>) {
        let name = format!("the edge from {} to {}", self.client, self.server);
        if edge["mtls"] != 1.0 || (self.protocol != "tcp" && edge["success"] != 1.0) {
            problems.push(format!("not all of {name} is successful and mutual TLS: {edge}"));
        }
        if edge["protocol"] != self.protocol {
            problems.push(format!("{name} is {}, not {}", edge["protocol"], self.protocol));
        }
        if [&edge["source"], &edge["destination"]].iter().any(|end| !end["id"].as_str().is_some_and(is_spiffe)) {
            problems.push(format!("no identity of both ends of {name}: {edge}"));
        }
        problems.extend(self.check_rate(edge));
    }

    /// Within a tenth of what is sent.
    fn check_rate(&self, figures: &Value) -> Option<String> {
        let (what, expected) = match self.protocol {
            "tcp" => ("tcp_bytes_per_second", self.rate * REDIS_BYTES),
            _ => ("rps", self.rate),
        };
        let seen = figures[what].as_f64().unwrap_or_default();
        let is_near = (seen / expected - 1.0).abs() <= 0.1;
        (!is_near).then(|| format!("{what} at {} is {seen}, and {expected} are sent", self.server))
    }

    /// The clients' own reports, and the servers' counters against them: so the first connection counts as well.
    fn check_counts(&self, namespace: &Namespace, problems: &mut Vec<String>) -> anyhow::Result<()> {
        let reports = if self.client == self.server { peers(namespace)? } else { vec![namespace.report(self.client)?] };
        let mut sent = 0;
        for report in &reports {
            sent += if self.protocol == "tcp" { report.connections } else { report.sent };
            if report.failed() > 0 || report.sent == 0 {
                problems.push(format!("{} failed: {:?}", self.client, report.failures));
            }
            let servers = if self.client == self.server { 2 } else { self.pods };
            if report.served.len() as u64 != servers {
                problems.push(format!("{} was served by {:?}", self.client, report.served.keys()));
            }
        }
        let counter = if self.protocol == "tcp" { metric::TCP_OPENED } else { metric::REQUESTS };
        let (received, plaintext) = (["reporter=\"destination\""], ["connection_security_policy=\"none\""]);
        let mut expect = |what: &str, seen: f64, expected: u64| {
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let expected = expected as f64;
            if (seen - expected).abs() > 0.5 {
                problems.push(format!("{} counts {seen} {what}, not {expected}", self.server));
            }
        };
        expect("requests or connections", namespace.sum(self.server, counter, &received)?, sent);
        for counter in [metric::TCP_OPENED, metric::REQUESTS] {
            expect(&format!("{counter} in plaintext"), namespace.sum(self.server, counter, &plaintext)?, 0);
        }
        Ok(())
    }
}

/// Those that must be there are there, and there are no others.
fn check_edges(answer: &Value, problems: &mut Vec<String>) {
    let edges = answer["edges"].as_array().unwrap();
    let is_of = |edge: &Value, flow: &Flow| {
        edge["source"]["workload"] == flow.client && edge["destination"]["workload"] == flow.server
    };
    for flow in &FLOWS {
        let mut of_flow = edges.iter().filter(|edge| is_of(edge, flow));
        match (of_flow.next(), of_flow.next()) {
            (Some(edge), None) => flow.check_edge(edge, problems),
            (edge, _) => {
                let count = if edge.is_some() { "two edges" } else { "no edge" };
                problems.push(format!("{count} from {} to {}: {answer}", flow.client, flow.server));
            }
        }
    }
    problems.extend(
        edges
            .iter()
            .filter(|edge| !FLOWS.iter().any(|flow| is_of(edge, flow)))
            .map(|edge| format!("nobody expects {edge}")),
    );
}

/// The reports of the three peers, once they have all sent what they had to.
fn peers(namespace: &Namespace) -> anyhow::Result<Vec<LoadReport>> {
    let report = |pod: &str| -> anyhow::Result<LoadReport> {
        Ok(serde_json::from_str(&namespace.kubectl(&["logs", pod, "--container=peer"])?)?)
    };
    ["db-0", "db-1", "db-2"]
        .into_iter()
        .map(|pod| {
            let ended = eventually(Duration::from_secs(60), || report(pod).is_ok());
            ended.and_then(|()| report(pod))
        })
        .collect()
}

fn servers() -> String {
    let named = |port: u16, name: &str| format!("{{ name: {name}, port: {port}, targetPort: 8080 }}");
    let stock = server_manifest("stock", 1).replace(&named(80, "http"), &named(50051, "grpc"));
    let db = server_manifest("db", 3)
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace("spec:\n  replicas", "spec:\n  serviceName: db\n  podManagementPolicy: Parallel\n  replicas")
        .replace(&named(80, "http"), "{ name: http, port: 8080 }")
        .replace("  ports: [{", "  clusterIP: None\n  ports: [{");
    let redis = container("app", "--port, '6379', --save, '', --protected-mode, 'no'", READY_REDIS)
        .replace("/test-traffic:", "/test-redis:");
    let redis = deployment_manifest("redis", "", &[redis], "");
    let separated: Vec<&dyn Display> = vec![&stock, &db];
    let separated: String = separated.iter().map(|manifest| format!("---{manifest}")).collect();
    let peer = container("peer", PEER, "env: [{ name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }]");
    let service = service_manifest("redis", "redis", "{ port: 6379 }", "");
    format!("{}{separated}        - {peer}\n{service}{redis}", server_manifest("web", 2))
}

fn is_spiffe(id: &str) -> bool {
    id.starts_with("spiffe://cluster.local/ns/")
}

const FLOWS: [Flow; 4] = [
    Flow { client: "to-web", server: "web", protocol: "http", pods: 2, rate: 30.0 },
    Flow { client: "to-stock", server: "stock", protocol: "grpc", pods: 1, rate: 20.0 },
    Flow { client: "to-redis", server: "redis", protocol: "tcp", pods: 1, rate: 20.0 },
    Flow { client: "db", server: "db", protocol: "http", pods: 3, rate: 30.0 },
];
const CLIENTS: [Client; 3] = [
    Client { job: "to-web", arguments: "--rate=30, '--target=web:80'" },
    Client { job: "to-stock", arguments: "--rate=20, --protocol=grpc, --path=/shop.Stock/Get, '--target=stock:50051'" },
    Client { job: "to-redis", arguments: "--rate=20, --protocol=redis, --path=/value, '--target=redis:6379'" },
];
/// Each calls the two others, from the moment that they all can be called.
const PEER: &str =
    "load, --seconds=45, --stay, --rate=10, '--except=$(POD).', '--target=db-0.db:8080,db-1.db:8080,db-2.db:8080'";
const READY_REDIS: &str = "readinessProbe: { tcpSocket: { port: 6379 }, periodSeconds: 1 }";
/// Longer than it takes to start all Jobs and to look for twelve seconds.
const SECONDS: u32 = 30;
/// `SET key /value` and `OK` on the wire.
const REDIS_BYTES: f64 = 34.0 + 5.0;
