//! No pacing between a proxy and the application beside it.
//!
//! Where the node's congestion control paces (BBR does), each burst waits for a timer of its own. On a link that is shared this is what
//! makes it fair; inside a pod it shares nothing with anybody, and costs more processor time than all the rest of carrying the bytes.

use std::os::fd::AsFd;

use socket2::SockRef;

/// Makes the kernel send at once on a connection that never leaves this pod. What goes to other pods keeps the node's congestion control.
pub fn do_not_pace(socket: &impl AsFd) {
    // Reno is in every kernel and free for everybody to choose (`tcp_allowed_congestion_control`). Without it the connection works too.
    let _ = SockRef::from(socket).set_tcp_congestion(b"reno");
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_user_without_rights_may_choose_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        do_not_pace(&client);
        let name = SockRef::from(&client).tcp_congestion().unwrap();
        assert_eq!(name.split(|byte| *byte == 0).next(), Some(&b"reno"[..]));
    }
}
