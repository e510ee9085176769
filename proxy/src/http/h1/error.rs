//! What the HTTP/1 codec refuses, and what the sender is told.

use proto::Reason;

/// A message that is not forwarded, because it is broken or could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum H1Error {
    /// The head does not end within the limit.
    #[error("the head is larger than {0} bytes: send smaller headers or cookies, or raise the limit")]
    HeadTooLarge(usize),
    /// More header fields than allowed.
    #[error("the head has more than {0} header fields")]
    TooManyFields(usize),
    /// The bytes are not HTTP/1.
    #[error("not valid HTTP/1: {0}")]
    Syntax(&'static str),
    /// Two readers could disagree about where the body ends.
    #[error("ambiguous message length: {0}")]
    Length(&'static str),
    /// Two readers could disagree about whom the request is for.
    #[error("ambiguous or missing host: {0}")]
    Host(&'static str),
    /// A transfer coding other than `chunked`.
    #[error("transfer coding other than chunked")]
    TransferCoding,
    /// A version other than 1.0 and 1.1.
    #[error("HTTP version other than 1.0 and 1.1")]
    Version,
    /// A chunk or trailer that breaks the chunked coding.
    #[error("broken chunked body: {0}")]
    Chunk(&'static str),
    /// The sender closed in the middle of a message.
    #[error("the connection was closed in the middle of a message")]
    Truncated,
}

impl H1Error {
    /// Why a request is refused; its status is the one the client gets.
    pub fn request_reason(self) -> Reason {
        match self {
            Self::HeadTooLarge(_) | Self::TooManyFields(_) => Reason::HeadTooLarge,
            Self::Syntax(_) | Self::Length(_) | Self::Host(_) | Self::Chunk(_) => Reason::RequestInvalid,
            Self::Truncated => Reason::ClientClosed,
            Self::TransferCoding => Reason::TransferCodingUnsupported,
            Self::Version => Reason::VersionUnsupported,
        }
    }

    /// Why a response is not passed on.
    pub fn response_reason(self) -> Reason {
        match self {
            Self::HeadTooLarge(_) | Self::TooManyFields(_) => Reason::ResponseHeadTooLarge,
            Self::Truncated => Reason::ConnectionClosed,
            Self::Syntax(_)
            | Self::Length(_)
            | Self::Host(_)
            | Self::Chunk(_)
            | Self::TransferCoding
            | Self::Version => Reason::ResponseInvalid,
        }
    }
}
