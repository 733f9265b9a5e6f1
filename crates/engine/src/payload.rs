//! What a job emits: text or bytes, copied or shared, checked once. It knows nothing of runs.

use bytes::Bytes;

use crate::{
    Code, JobError,
    journal::{Content, SHARE_BYTES_MIN},
};

/// Whether responses carry text or bytes. It is the source's, never a response's, so that a client that knows only
/// text is never silently sent nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadKind {
    /// `result`; bytes that are not UTF-8 fail the job.
    #[default]
    Text,
    /// `result`; bytes that are not UTF-8 become U+FFFD.
    Lossy,
    /// `data`.
    Bytes,
}

/// Text or bytes to emit: borrowed ones are copied into the journal, owned ones shared with it where they are large.
pub struct Payload<'a> {
    pub(crate) content: Content<'a>,
    /// Known to be UTF-8, because its type says so.
    pub(crate) is_text: bool,
}

macro_rules! payload_from {
    ($($from:ty, $is_text:literal, $value:ident => $content:expr;)*) => {$(
        impl<'a> From<$from> for Payload<'a> {
            #[inline]
            fn from($value: $from) -> Self {
                Self { content: $content, is_text: $is_text }
            }
        }
    )*};
}

payload_from! {
    &'a str, true, text => Content::Borrowed(text.as_bytes());
    &'a &str, true, text => Content::Borrowed(text.as_bytes());
    &'a String, true, text => Content::Borrowed(text.as_bytes());
    String, true, text => Content::Shared(text.into());
    &'a [u8], false, bytes => Content::Borrowed(bytes);
    &'a &[u8], false, bytes => Content::Borrowed(bytes);
    &'a Vec<u8>, false, bytes => Content::Borrowed(bytes);
    Vec<u8>, false, bytes => Content::Shared(bytes.into());
    Bytes, false, bytes => Content::Shared(bytes);
    &'a Bytes, false, bytes => Content::Shared(bytes.clone());
}

/// Text that many responses share: cloning it copies nothing, and it is checked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Bytes);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl<'a> From<&'a Text> for Payload<'a> {
    #[inline]
    fn from(Text(bytes): &'a Text) -> Self {
        let content =
            if bytes.len() < SHARE_BYTES_MIN { Content::Borrowed(bytes) } else { Content::Shared(bytes.clone()) };
        Self { content, is_text: true }
    }
}

/// Why a payload was not emitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The run has ended and nobody will read more: stop working.
    #[error("the run has ended")]
    Closed,
    /// The source answers with text, and this is not UTF-8. The job may go on, or fail with this error.
    #[error("not UTF-8 at byte {at} of a payload; a source of bytes says `payload = \"bytes\"` or `\"lossy\"`")]
    NotText {
        /// Offset of the first byte that is not text.
        at: usize,
    },
    /// The source answers with text, and a message is bytes. Its plan has to say so.
    #[error("a message is bytes, and the source answers with text; its plan says `.payload(PayloadKind::Bytes)`")]
    NotBytes,
    /// A message is never split, and this one is longer than a response may be.
    #[error(
        "a message of {bytes} bytes is longer than the {max} that a response carries; raise response_bytes_max, or emit less at once"
    )]
    MessageTooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
}

/// The one reason for which a run refuses a payload. By itself, since it is given back in registers.
pub(crate) struct NotText {
    /// Offset of the first byte that is not text.
    pub(crate) at: usize,
}

impl From<NotText> for EmitError {
    fn from(NotText { at }: NotText) -> Self {
        Self::NotText { at }
    }
}

impl From<EmitError> for JobError {
    fn from(error: EmitError) -> Self {
        let code = match error {
            EmitError::Closed => Code::Cancelled,
            EmitError::NotText { .. } | EmitError::NotBytes => Code::Internal,
            EmitError::MessageTooLong { .. } => Code::ResourceExhausted,
        };
        Self::new(code, error)
    }
}
