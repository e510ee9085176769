//! Much data, little memory.

use super::pair::{Pair, said};

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
    for pod in [&pair.client, &pair.server] {
        let peak = pod.proxy.as_ref().unwrap().peak_bytes().unwrap();
        assert!(peak < 20 << 20, "the proxy of {} held {peak} bytes", pod.name);
    }
}

const SIZE: u64 = 100_000_000;
