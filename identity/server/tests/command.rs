//! The program itself: flags, files, signals.

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Output, Stdio};
    use std::time::SystemTime;

    use identity::TokenVerifier;
    use proto::names::TOKEN_AUDIENCE;
    use rustix::process::{Pid, Signal, kill_process};

    fn mesh_identity() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-identity"));
        command.env("RUST_BACKTRACE", "1");
        command
    }

    fn stderr(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[test]
    fn writes_tokens_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (issuer, file) = (directory.path().join("issuer"), directory.path().join("token"));
        let id = "spiffe://cluster.local/ns/shop/sa/cart";
        let output = mesh_identity()
            .args(["token", "--id", id, "--issuer-dir"])
            .arg(&issuer)
            .arg("--out")
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let verifier = TokenVerifier::load(&issuer, TOKEN_AUDIENCE).unwrap();
        let token = std::fs::read_to_string(&file).unwrap();
        assert_eq!(verifier.verify(&token, SystemTime::now()).unwrap().as_str(), id);
    }

    #[test]
    fn starts_from_nothing_and_stops_on_sigterm() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle.pem");
        let mut child = mesh_identity()
            .args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--issuer-dir"])
            .arg(directory.path().join("issuer"))
            .arg("--bundle-out")
            .arg(&bundle)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("mesh-identity is ready")));
        assert!(std::fs::read_to_string(&bundle).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(lines.any(|line| line.contains("stopping")));
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn what_is_wrong_is_said_in_a_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = directory.path().join("issuer");
        let output = mesh_identity().env("KUBECONFIG", directory.path().join("none")).output().unwrap();
        assert!(!output.status.success() && stderr(&output).contains("--issuer-dir"), "{}", stderr(&output));

        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let serve = |issuer: &std::path::Path, listen: &str| {
            let mut command = mesh_identity();
            command.args(["--health-listen", "127.0.0.1:0", "--listen", listen, "--issuer-dir"]).arg(issuer);
            command.output().unwrap()
        };
        let output = serve(&issuer, &address);
        assert!(!output.status.success() && stderr(&output).contains("port is in use"), "{}", stderr(&output));

        std::fs::create_dir_all(&issuer).unwrap();
        std::fs::write(issuer.join("tls.crt"), "nothing").unwrap();
        std::fs::write(issuer.join("tls.key"), "nothing").unwrap();
        let output = serve(&issuer, "127.0.0.1:0");
        assert!(!output.status.success() && stderr(&output).contains("tls.crt does not hold"), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().filter(|line| line.starts_with("mesh-identity: ")).count(), 1);
        assert!(!stderr(&output).contains("backtrace"), "{}", stderr(&output));
    }
}
