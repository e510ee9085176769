//! A session store that answers lines with lines: bytes that nothing between client and server understands.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Answers every line until the client closes, or sends one that is too long.
pub(super) async fn serve(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    while let Ok(question) = line(&mut stream).await {
        if stream.write_all(format!("{ANSWER} {question}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Asks one question.
pub(super) async fn ask(stream: &mut BufReader<TcpStream>, question: &str) -> Result<(), String> {
    let sent = stream.write_all(format!("{question}\n").as_bytes()).await;
    sent.map_err(|error| format!("cannot write: {error}"))?;
    let answer = line(stream).await.map_err(|error| format!("no answer: {error}"))?;
    if answer.trim_end() == format!("{ANSWER} {question}") {
        return Ok(());
    }
    Err(format!("asked {question:?} and heard {answer:?}"))
}

async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<String> {
    let mut line = String::new();
    stream.take(MAX_LINE).read_line(&mut line).await?;
    if line.ends_with('\n') { Ok(line) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

const ANSWER: &str = "here is";
const MAX_LINE: u64 = 1024;
