//! Connections that were closed and are not delivered yet: their last bytes are the kernel's to send.
//!
//! A pod's network goes moments after its last process. Whoever is that process waits until peers have acknowledged what was said
//! last, or it is lost with the network.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// Bytes of closed connections of this network namespace, whoever closed them, that the other end has not acknowledged; an end of
/// stream counts as one.
pub fn undelivered() -> io::Result<u64> {
    let mut bytes = 0;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match File::open(table) {
            Ok(file) => bytes += sum(BufReader::new(file))?,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Over the lines of `/proc/net/tcp` (proc_net_tcp.txt of the kernel's documentation).
fn sum(table: impl BufRead) -> io::Result<u64> {
    let mut bytes = 0;
    for line in table.lines().skip(1) {
        bytes += of_orphan(&line?).unwrap_or(0);
    }
    Ok(bytes)
}

/// The transmit queue of a connection that belongs to no file any more.
fn of_orphan(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(4);
    let (transmit, _) = fields.next()?.split_once(':')?;
    let inode = fields.nth(4)?;
    if inode == "0" { u64::from_str_radix(transmit, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_closed_connections_count() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  2102        0 651 1 0000000020d67e50 100 0 0 10 0
   1: 0100F40A:3A9E 0200F40A:8A12 01 00000100:00000000 01:00000014 00000000  2102        0 652 2 0000000020d67e51 20 4 30 10 -1
   2: 0100F40A:3A9E 0300F40A:8A12 04 00000101:00000000 01:00000014 00000000     0        0 0 1 0000000020d67e52 20 4 30 10 -1
   3: 0100F40A:3A9E 0400F40A:8A12 06 00000000:00000000 03:00000014 00000000     0        0 0 3 0000000020d67e53
   4: this is no
";
        assert_eq!(sum(table.as_bytes()).unwrap(), 0x101);
    }

    #[test]
    fn what_a_slow_reader_has_not_taken_is_undelivered_until_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = server.write(&[7; 65_536]) {
            written += count;
        }
        drop(server);
        assert!(undelivered().unwrap() > 0, "of {written} bytes nobody read one");
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), written);
        let began = Instant::now();
        while undelivered().unwrap() > 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "all was read");
            std::thread::yield_now();
        }
    }
}
