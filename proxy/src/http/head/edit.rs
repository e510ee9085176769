//! Changes to a head that are applied when it is written, so that the head itself stays what was read.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue};

/// The list of changes of one head, in the order they were asked for. Empty for most messages, and then free.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    fields: Vec<Edit>,
    path: Option<PathAndQuery>,
    authority: Option<Authority>,
}

/// Whether a field is `x-forwarded-client-cert`, in any spelling that CGI-style servers cannot tell from it.
pub(in crate::http) fn is_identity(name: &[u8]) -> bool {
    const IDENTITY: &[u8] = b"x-forwarded-client-cert";
    let same = |(&sent, &known): (&u8, &u8)| sent.eq_ignore_ascii_case(&known) || (sent == b'_' && known == b'-');
    name.len() == IDENTITY.len() && name.iter().zip(IDENTITY).all(same)
}

#[derive(Debug, Clone)]
enum Edit {
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Edits {
    /// Replaces every field of this name by one.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.fields.push(Edit::Set(name, value));
    }

    /// Adds a field, besides others of this name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.fields.push(Edit::Append(name, value));
    }

    /// Removes every field of this name.
    pub fn remove(&mut self, name: HeaderName) {
        self.fields.push(Edit::Remove(name));
    }

    /// Replaces path and query of a request.
    pub fn replace_path(&mut self, path: PathAndQuery) {
        self.path = Some(path);
    }

    /// Replaces the authority (`Host`, `:authority`) of a request.
    pub fn replace_authority(&mut self, authority: Authority) {
        self.authority = Some(authority);
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.path = None;
        self.authority = None;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.path.is_none() && self.authority.is_none()
    }

    pub(in crate::http) fn path(&self) -> Option<&PathAndQuery> {
        self.path.as_ref()
    }

    pub(in crate::http) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Whether received fields of this name are dropped.
    pub(in crate::http) fn drops(&self, name: &[u8]) -> bool {
        self.fields.iter().any(|edit| match edit {
            Edit::Set(edited, _) | Edit::Remove(edited) => {
                name.eq_ignore_ascii_case(edited.as_ref()) || (is_identity(name) && is_identity(edited.as_ref()))
            }
            Edit::Append(..) => false,
        })
    }

    /// The fields that are added, after everything later in the list was taken into account.
    pub(in crate::http) fn added(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().enumerate().filter_map(|(index, edit)| {
            let (Edit::Set(name, value) | Edit::Append(name, value)) = edit else {
                return None;
            };
            let undone = self.fields[index + 1..].iter().any(|later| match later {
                Edit::Set(edited, _) | Edit::Remove(edited) => edited == name,
                Edit::Append(..) => false,
            });
            (!undone).then_some((name, value))
        })
    }
}
