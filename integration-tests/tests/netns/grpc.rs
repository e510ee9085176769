//! gRPC, spoken by Google's own library (Debian's `python3-grpcio`).

use super::pair::{PYTHON, Pair, said};

/// Declared and not: calls of one message, streams in which each side waits for the other, and errors with their trailers.
#[test]
fn grpc_calls_and_streams_pass() {
    for declared in [Some("kubernetes.io/h2c"), None] {
        let pair = Pair::new(9000, declared);
        let _server = pair.serve(&[PYTHON, "-c", SERVER], 9000);
        for addr in pair.service {
            let target = if addr.is_ipv4() { format!("ipv4:{addr}") } else { format!("ipv6:{addr}") };
            assert_eq!(said(&pair.client, &[PYTHON, "-c", CLIENT, &target]), "done\n", "{declared:?}");
        }
        let counted = pair.client.metric("istio_requests_total", &["request_protocol=\"grpc\""]).unwrap();
        assert_eq!(counted, 6.0, "{}", pair.client.admin("/metrics").unwrap());
    }
}

const SERVER: &str = r#"
import grpc
from concurrent import futures

class Chat(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/test.Chat/Once":
            return grpc.unary_unary_rpc_method_handler(lambda message, context: message)
        if call.method == "/test.Chat/Stream":
            return grpc.stream_stream_rpc_method_handler(self.stream)
        if call.method == "/test.Chat/Fail":
            return grpc.unary_unary_rpc_method_handler(self.fail)

    def stream(self, messages, context):
        context.set_trailing_metadata((("x-seen", "all"),))
        for message in messages:
            yield message.upper()

    def fail(self, message, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so")

server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Chat()])
server.add_insecure_port("[::]:9000")
server.start()
server.wait_for_termination()
"#;

const CLIENT: &str = r#"
import grpc, queue, sys

with grpc.insecure_channel(sys.argv[1]) as channel:
    assert channel.unary_unary("/test.Chat/Once")(b"a" * 1000000, timeout=20) == b"a" * 1000000
    turns = queue.Queue()
    call = channel.stream_stream("/test.Chat/Stream")(iter(turns.get, None), timeout=20)
    for number in range(50):
        turns.put(b"message %d" % number)
        assert next(call) == b"MESSAGE %d" % number
    turns.put(None)
    assert next(call, "end") == "end"
    assert call.code() == grpc.StatusCode.OK
    assert dict(call.trailing_metadata())["x-seen"] == "all"
    try:
        channel.unary_unary("/test.Chat/Fail")(b"", timeout=20)
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not so"), error
    else:
        raise AssertionError("no error")
print("done")
"#;
