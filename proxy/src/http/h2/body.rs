//! The body of one stream on its way to another: flow control, trailers, resets, and a short memory for another try.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use crate::http::head::edit::is_identity;

/// A body being received.
#[derive(Debug)]
pub struct Source {
    stream: RecvStream,
    /// What was relayed already, as long as it is little enough to be relayed again.
    kept: Option<Kept>,
    /// Bytes relayed, each counted once however often it was sent.
    pub bytes: u64,
    trailers: Option<HeaderMap>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Bytes>,
    size: usize,
}

/// Who ended a body early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender reset the stream or left.
    #[error("the sender ended the body: {0}")]
    Sender(h2::Error),
    /// The receiver reset the stream or left.
    #[error("the receiver ended the body: {0}")]
    Receiver(h2::Error),
}

impl Source {
    /// A body that is relayed once.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, kept: None, bytes: 0, trailers: None, ended: false }
    }

    /// A body whose first 64 KiB are kept until [`Source::forget`], so that it can be sent to another server.
    pub fn replayable(stream: RecvStream) -> Self {
        Self { kept: Some(Kept::default()), ..Self::new(stream) }
    }

    /// Whether there is no body at all, and there are no trailers.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0 && self.trailers.is_none() && (self.ended || self.stream.is_end_stream())
    }

    /// Whether everything is still there to be sent again.
    pub fn is_replayable(&self) -> bool {
        self.kept.is_some() || (self.bytes == 0 && !self.ended)
    }

    /// The trailers, once relayed.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Relays all of it. After a failure of the receiver it may be called again with another one.
    pub async fn relay(&mut self, to: &mut SendStream<Bytes>) -> Result<(), BodyError> {
        for index in 0..self.kept.as_ref().map_or(0, |kept| kept.pieces.len()) {
            if let Some(piece) = self.kept.as_ref().and_then(|kept| kept.pieces.get(index)) {
                let last = self.ended && self.trailers.is_none() && index + 1 == self.kept_pieces();
                send(to, piece.clone(), last).await?;
            }
        }
        if self.ended {
            return self.send_end(to);
        }
        while let Some(piece) = self.next(to).await? {
            let size = piece.len();
            self.bytes += size as u64;
            self.keep(&piece);
            self.ended = self.stream.is_end_stream();
            let sent = send(to, piece, self.ended).await;
            // Given back only now: the sender goes no faster than the receiver.
            let _ = self.stream.flow_control().release_capacity(size);
            sent?;
            if self.ended {
                return Ok(());
            }
        }
        self.trailers = self.stream.trailers().await.map_err(BodyError::Sender)?.map(without_identity);
        self.ended = true;
        match &self.trailers {
            Some(trailers) => to.send_trailers(trailers.clone()).map_err(BodyError::Receiver),
            None => to.send_data(Bytes::new(), true).map_err(BodyError::Receiver),
        }
    }

    /// The next piece, unless the receiver gives up first.
    async fn next(&mut self, to: &mut SendStream<Bytes>) -> Result<Option<Bytes>, BodyError> {
        poll_fn(|cx| {
            match to.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => return Poll::Ready(Err(BodyError::Receiver(reason.into()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(BodyError::Receiver(error))),
                Poll::Pending => {}
            }
            self.stream.poll_data(cx).map(|next| next.transpose().map_err(BodyError::Sender))
        })
        .await
    }

    fn keep(&mut self, piece: &Bytes) {
        if let Some(kept) = &mut self.kept {
            kept.size += piece.len();
            kept.pieces.push(piece.clone());
            if kept.size > REPLAYED || kept.pieces.len() > REPLAYED_PIECES {
                self.kept = None;
            }
        }
    }

    fn kept_pieces(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.pieces.len())
    }

    fn send_end(&self, to: &mut SendStream<Bytes>) -> Result<(), BodyError> {
        match &self.trailers {
            Some(trailers) => to.send_trailers(trailers.clone()).map_err(BodyError::Receiver),
            None if self.kept_pieces() > 0 => Ok(()),
            None => to.send_data(Bytes::new(), true).map_err(BodyError::Receiver),
        }
    }
}

/// Sends one piece, as the receiver's window allows.
pub async fn send(to: &mut SendStream<Bytes>, mut piece: Bytes, last: bool) -> Result<(), BodyError> {
    while !piece.is_empty() {
        to.reserve_capacity(piece.len());
        let granted = match poll_fn(|cx| to.poll_capacity(cx)).await {
            Some(Ok(granted)) => granted.min(piece.len()),
            Some(Err(error)) => return Err(BodyError::Receiver(error)),
            None => return Err(BodyError::Receiver(Reason::CANCEL.into())),
        };
        let part = piece.split_to(granted);
        let end = last && piece.is_empty();
        to.send_data(part, end).map_err(BodyError::Receiver)?;
        if end {
            return Ok(());
        }
    }
    if last { to.send_data(Bytes::new(), true).map_err(BodyError::Receiver) } else { Ok(()) }
}

/// Some reader would take a trailer for the field that says who calls.
fn without_identity(mut trailers: HeaderMap) -> HeaderMap {
    let named: Vec<_> = trailers.keys().filter(|name| is_identity(name.as_ref())).cloned().collect();
    for name in named {
        trailers.remove(name);
    }
    trailers
}

/// How much of a body is kept for another try.
const REPLAYED: usize = 64 * 1024;
/// A body in many tiny pieces is not kept: each has its own cost.
const REPLAYED_PIECES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_trailer_says_who_calls() {
        let mut trailers = HeaderMap::new();
        for name in ["grpc-status", "x-forwarded-client-cert", "x_forwarded-client_cert"] {
            trailers.append(name, http::HeaderValue::from_static("0"));
        }
        let left = without_identity(trailers);
        assert_eq!(left.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }
}
