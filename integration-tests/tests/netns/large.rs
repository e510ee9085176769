//! Much data, little memory.

use std::io::{self, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use super::pair::{Pair, dial, said};

/// Both ways, as HTTP/1 and as HTTP/2: a hundred megabytes, and neither proxy ever holds more than 20.
#[test]
fn a_hundred_megabytes_each_way() {
    let (pair, _server) = Pair::http(None);
    std::fs::File::create(pair.file("large")).unwrap().set_len(SIZE).unwrap();
    let file = pair.file("large").display().to_string();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = &pair.urls()[0];
        let down = said(
            &pair.client,
            &[
                "curl",
                "-sS",
                "--fail",
                version,
                "-o",
                "/dev/null",
                "-w",
                "%{size_download}",
                &format!("{url}/?size={SIZE}"),
            ],
        );
        assert_eq!(down, SIZE.to_string(), "{version}");
        let up = said(
            &pair.client,
            &[
                "curl",
                "-sS",
                "--fail",
                version,
                "-T",
                &file,
                "-X",
                "POST",
                "-H",
                "expect:",
                "-o",
                "/dev/null",
                "-w",
                "%{size_upload} %{size_download}",
                url,
            ],
        );
        assert_eq!(up, format!("{SIZE} {SIZE}"), "{version}");
    }
    stayed_small(&pair);
}

/// The same as bytes that nothing parses, both ways at once.
#[test]
fn a_hundred_megabytes_of_bytes_each_way() {
    let pair = Pair::new(7000, None);
    let echo = pair.server.traffic("echo", &["echo", "[::]:7000"]).unwrap();
    echo.wait_for_output("listening", Duration::from_secs(10)).unwrap();
    for addr in pair.service {
        let mut stream = dial(&pair.client, addr);
        let mut writer = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            let piece = [1; 100_000];
            for _ in 0..SIZE / piece.len() as u64 {
                writer.write_all(&piece).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(io::copy(&mut stream, &mut io::sink()).unwrap(), SIZE, "{addr}");
        sender.join().unwrap();
    }
    stayed_small(&pair);
}

fn stayed_small(pair: &Pair) {
    for pod in [&pair.client, &pair.server] {
        let peak = pod.proxy.as_ref().unwrap().peak_bytes().unwrap();
        assert!(peak < 20 << 20, "the proxy of {} held {peak} bytes", pod.name);
    }
}

const SIZE: u64 = 100_000_000;
