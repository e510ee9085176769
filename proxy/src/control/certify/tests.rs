//! Certificates from an authority on a real socket.

use std::net::SocketAddr;

use super::*;
use crate::control::fake::{AUTHORITY, WORKLOAD, World};

struct Workload {
    certifier: Certifier,
    certified: watch::Receiver<bool>,
    state: ControlState,
    tls: MeshTls,
    directory: tempfile::TempDir,
}

impl Workload {
    fn new(world: &World, authority: SocketAddr, token: &str) -> Self {
        Self::in_directory(world, authority, token, tempfile::tempdir().unwrap())
    }

    fn in_directory(world: &World, authority: SocketAddr, token: &str, directory: tempfile::TempDir) -> Self {
        let token_file = directory.path().join("token");
        std::fs::write(&token_file, format!("{token}\n")).unwrap();
        let (tls, state) = (MeshTls::new(None), ControlState::new(WORKLOAD));
        let (sender, certified) = watch::channel(false);
        let bundle = world.issuer.bundle().clone();
        let trust = Trust::new(Some(bundle), tls.clone(), state.clone(), watch::Sender::new(()));
        let certifier = Certifier {
            id: WORKLOAD.parse().unwrap(),
            token_file,
            directory: Some(directory.path().to_owned()),
            tls: tls.clone(),
            trust,
            state: state.clone(),
            dialer: world.dialer(&tls, &[authority], AUTHORITY),
            certified: sender,
        };
        Self { certifier, certified, state, tls, directory }
    }
}

async fn until(state: &ControlState, what: impl Fn(&proto::admin::IdentityStatus) -> bool) {
    let watching = async {
        while !what(&state.identity()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), watching).await.unwrap_or_else(|_| panic!("{:?}", state.identity()));
}

#[tokio::test]
async fn a_token_becomes_a_certificate_that_is_renewed_and_kept() {
    let world = World::new();
    let authority = world.authority(Duration::from_secs(4)).await;
    let Workload { certifier, mut certified, state, tls, directory } = Workload::new(&world, authority, "good");
    let task = tokio::spawn(certifier.run());
    certified.wait_for(|certified| *certified).await.unwrap();
    let first = tls.leaf().unwrap();
    assert_eq!(first.id().as_str(), WORKLOAD);
    until(&state, |status| status.renewals >= 2).await;
    assert_ne!(tls.leaf().unwrap().serial(), first.serial());
    assert!(first.valid_at(SystemTime::now()), "renewed long before the end");
    std::fs::remove_file(directory.path().join("token")).unwrap();
    until(&state, |status| status.last_error.as_ref().is_some_and(|error| error.contains("not good"))).await;
    task.abort();

    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let restarted = Workload::in_directory(&world, nobody, "good", directory);
    restarted.certifier.restore(SystemTime::now());
    assert!(*restarted.certified.borrow());
    assert!(restarted.state.identity().not_after_ms > 0);
    assert_eq!(restarted.state.identity().renewals, 0);
}

#[tokio::test]
async fn a_refusal_is_told_and_tried_again_until_the_token_is_good() {
    let world = World::new();
    let authority = world.authority(Duration::from_secs(3600)).await;
    let Workload { certifier, mut certified, state, directory, .. } = Workload::new(&world, authority, "bad");
    let task = tokio::spawn(certifier.run());
    let refused = |error: &String| error.contains("the token is not good");
    until(&state, |status| status.last_error.as_ref().is_some_and(refused)).await;
    assert!(!*certified.borrow());
    std::fs::write(directory.path().join("token"), "good").unwrap();
    certified.wait_for(|certified| *certified).await.unwrap();
    until(&state, |status| status.last_error.is_none() && status.renewals == 1).await;
    task.abort();
}

#[tokio::test]
async fn an_authority_that_is_somebody_else_never_sees_the_token() {
    let world = World::new();
    let impostor = world.controller("spiffe://cluster.local/ns/shop/sa/cart").await;
    let Workload { certifier, state, directory: _kept, .. } = Workload::new(&world, impostor.address, "good");
    let task = tokio::spawn(certifier.run());
    until(&state, |status| status.last_error.as_ref().is_some_and(|error| error.contains("wrong_id"))).await;
    task.abort();
}

#[tokio::test]
async fn a_kept_certificate_that_has_ended_is_not_used() {
    let world = World::new();
    let workload = Workload::new(&world, SocketAddr::from(([127, 0, 0, 1], 1)), "good");
    world.leaf(WORKLOAD).save(workload.directory.path()).unwrap();
    workload.certifier.restore(SystemTime::now() + Duration::from_secs(7200));
    assert!(!*workload.certified.borrow());
    world.leaf("spiffe://cluster.local/ns/shop/sa/cart").save(workload.directory.path()).unwrap();
    workload.certifier.restore(SystemTime::now());
    assert!(!*workload.certified.borrow(), "another workload's");
    std::fs::write(workload.directory.path().join("identity.pem"), "rubbish").unwrap();
    workload.certifier.restore(SystemTime::now());
    assert!(!*workload.certified.borrow());
}

#[tokio::test]
async fn a_certificate_whose_root_the_mesh_has_dropped_is_replaced_at_once() {
    let world = World::new();
    let authority = world.authority(Duration::from_secs(3600)).await;
    let Workload { certifier, state, tls, directory, .. } = Workload::new(&world, authority, "good");
    let now = SystemTime::now();
    let (former, _) = identity::Issuer::create(&"cluster.local".parse().unwrap(), now).unwrap();
    let key = KeyAndRequest::new(&certifier.id).unwrap();
    let issued = former.issue(key.csr(), &certifier.id, Duration::from_secs(3600), now).unwrap();
    certifier.use_from_now(key.complete(issued.chain).unwrap(), now, false);
    let file = directory.path().join("bundle.pem");
    std::fs::write(&file, world.issuer.bundle().to_pem()).unwrap();
    certifier.trust.put_file(&mut identity::BundleFile::new(file));
    let trust = certifier.trust.clone();
    let task = tokio::spawn(certifier.run());
    until(&state, |status| status.renewals == 1).await;
    task.abort();
    assert_eq!(trust.has_dropped(&tls.leaf().unwrap()), None);
}
