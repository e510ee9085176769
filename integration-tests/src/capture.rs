//! What somebody on the network reads in a capture of `tcpdump`: the bytes of every TCP stream, and whether they are TLS 1.3.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// The bytes in each direction. Packets arrive in order on a link within one machine.
pub type Streams = HashMap<Direction, Vec<u8>>;
/// From where to where.
pub type Direction = (SocketAddr, SocketAddr);

/// The payload of every TCP stream in a capture (pcap, Ethernet).
pub fn read(capture: &[u8]) -> Streams {
    let mut streams = Streams::new();
    let mut rest = capture.get(24..).unwrap_or_default();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let Some(packet) = rest.get(16..16 + length) else { break };
        if let Some((direction, payload)) = segment(packet) {
            streams.entry(direction).or_default().extend_from_slice(payload);
        }
        rest = &rest[16 + length..];
    }
    streams
}

fn segment(packet: &[u8]) -> Option<(Direction, &[u8])> {
    let number = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (kind, ip) = (number(packet, 12)?, packet.get(14..)?);
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
    let (tcp_at, end, from, to) = match kind {
        0x0800 if *ip.get(9)? == 6 => (usize::from(ip[0] & 15) * 4, usize::from(number(ip, 2)?), v4(12)?, v4(16)?),
        0x86dd if *ip.get(6)? == 6 => (40, 40 + usize::from(number(ip, 4)?), v6(8)?, v6(24)?),
        _ => return None,
    };
    let tcp = ip.get(tcp_at..end.min(ip.len()))?;
    let payload = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
    Some((((from, number(tcp, 0)?).into(), (to, number(tcp, 2)?).into()), payload))
}

/// Records of TLS throughout, and a ServerHello, where there is one, that chose TLS 1.3 (RFC 8446, section 4.2.1).
pub fn check_tls(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes;
    while let Some((&[kind, major, _, high, low], body)) = rest.split_first_chunk::<5>() {
        let length = usize::from(high) << 8 | usize::from(low);
        if !(20..=23).contains(&kind) || major != 3 {
            return Err(format!("not TLS: {:?}", &rest[..rest.len().min(16)]));
        }
        let body = &body[..body.len().min(length)];
        if kind == 22 && body.first() == Some(&2) && !body.windows(6).any(|window| window == [0, 43, 0, 2, 3, 4]) {
            return Err("not TLS 1.3".to_owned());
        }
        rest = &rest[5 + body.len()..];
    }
    Ok(())
}
