//! WebSockets, spoken by Debian's `python3-websockets`.

use super::pair::{PYTHON, Pair, said};

#[test]
fn websockets_pass_and_end_in_order() {
    let pair = Pair::new(8765, None);
    let _server = pair.serve(&[PYTHON, "-c", SERVER], 8765);
    for addr in pair.service {
        assert_eq!(said(&pair.client, &[PYTHON, "-c", CLIENT, &format!("ws://{addr}/chat")]), "closed 1000 bye\n");
    }
    let switched = pair.client.metric("istio_requests_total", &["response_code=\"101\""]).unwrap();
    assert_eq!(switched, 2.0, "{}", pair.client.admin("/metrics").unwrap());
}

const SERVER: &str = r#"
import asyncio, websockets

async def echo(socket):
    async for message in socket:
        if message == "bye":
            await socket.close(1000, "bye")
        else:
            await socket.send(message)

async def main():
    async with websockets.serve(echo, ["0.0.0.0", "::"], 8765, max_size=None):
        await asyncio.Future()

asyncio.run(main())
"#;

const CLIENT: &str = r#"
import asyncio, sys, websockets

async def main():
    async with websockets.connect(sys.argv[1], max_size=None) as socket:
        for message in ["hello", "", "\u00fc" * 1000, bytes(range(256)) * 8192]:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.ping()
        await socket.send("bye")
        await socket.wait_closed()
        print("closed", socket.close_code, socket.close_reason)

asyncio.run(main())
"#;
