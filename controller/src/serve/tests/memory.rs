//! What a stream costs: the proxies are another process, so that only the controller's side is counted.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use identity::{LeafCertificate, TrustBundle};

use super::*;

/// About 60 KB each, TLS and HTTP/2 included, with three keys subscribed.
#[tokio::test]
async fn a_stream_costs_little_memory() {
    let control = Control::start(2 * STREAMS).await;
    control.publish(1, &(1..=50).collect::<Vec<u8>>());
    let directory = tempfile::tempdir().unwrap();
    tls(&control.issuer, WEB).leaf().unwrap().save(directory.path()).unwrap();
    std::fs::write(directory.path().join("bundle.pem"), control.issuer.bundle().to_pem()).unwrap();
    // What all streams share is there before the first is counted.
    let few = proxies(&control, directory.path(), 20).await;
    let before = resident();
    let many = proxies(&control, directory.path(), STREAMS).await;
    let each = resident().saturating_sub(before) / STREAMS;
    println!("{each} bytes for each of {STREAMS} streams");
    assert!(each < 128 << 10, "{each} bytes for each stream");
    for mut process in [few, many] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

/// Starts so many proxies, and waits until all have what they ask for.
async fn proxies(control: &Control, directory: &Path, count: usize) -> Child {
    let (streams, updates) = (control.metrics.streams.get(), control.metrics.updates.get());
    let mut command = Command::new(std::env::current_exe().unwrap());
    let process = command
        .args(["--exact", "serve::tests::memory::in_another_process", "--nocapture"])
        .env(PLACE, directory)
        .env(COUNT, count.to_string())
        .env(ADDRESS, control.address.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (more_streams, more_updates) = (i64::try_from(count).unwrap(), 3 * u64::try_from(count).unwrap());
    let all = async {
        while control.metrics.streams.get() < streams + more_streams
            || control.metrics.updates.get() < updates + more_updates
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("every proxy gets in");
    process
}

/// No test by itself: the proxies, when the test above starts them.
#[tokio::test]
async fn in_another_process() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let place = Path::new(&place);
    let number = |name: &str| std::env::var(name).unwrap();
    let bundle = TrustBundle::from_pem(&std::fs::read(place.join("bundle.pem")).unwrap()).unwrap();
    let tls = MeshTls::new(Some(Arc::new(bundle)));
    tls.set_leaf(LeafCertificate::load(place).unwrap().unwrap());
    let address = number(ADDRESS).parse().unwrap();
    let mut clients = Vec::new();
    for _ in 0..number(COUNT).parse::<usize>().unwrap() {
        let client = open_at(address, tls.clone(), hello_from(1)).await.unwrap();
        client.subscribe(endpoints()).await;
        client.subscribe(wire::key::Kind::Inbound(wire::Unit {})).await;
        client.subscribe(wire::key::Kind::Settings(wire::Unit {})).await;
        clients.push(client);
    }
    // Who reads, reads on.
    let mut reading = tokio::task::JoinSet::new();
    for mut client in clients {
        reading.spawn(async move { while client.next().await.is_some() {} });
    }
    // Also when the test above has failed.
    while reading.join_next().await.is_some() {}
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

const STREAMS: usize = 1000;
const PLACE: &str = "MESH_TEST_PROXIES";
const COUNT: &str = "MESH_TEST_PROXIES_COUNT";
const ADDRESS: &str = "MESH_TEST_PROXIES_ADDRESS";
