//! URLs from a configuration, with places that requests fill: only in the path and in the query, and escaped so that no value
//! changes anything but the piece that it is in. It knows nothing of sending.

use http::Uri;
use outflow_engine::Refusal;

use crate::source::{
    Entry, Problem, Template,
    parameters::{Asked, Declared},
};

/// A URL with places.
pub(super) struct Url {
    template: Template,
}

impl Url {
    /// The URL at `key` of this entry.
    pub(super) fn new(entry: &Entry<'_>, key: &str, written: &str) -> Result<Self, Problem> {
        let template = entry.template(key, written)?;
        check(&template).map_err(|problem| entry.problem(key, format_args!("{key}: {problem}")))?;
        Ok(Self { template })
    }

    /// The URL for a request.
    ///
    /// # Errors
    /// For a value that would be a piece of the path by itself and name no place below: nothing, `.` or `..`.
    pub(super) fn fill(&self, asked: &Asked, declared: &Declared) -> Result<Uri, Refusal> {
        let url = self.template.fill_with(asked, escape);
        let written = self.template.fill_all("x");
        if dots(&url).zip(dots(&written)).any(|(is, was)| is && !was) {
            return Err(self.refusal(asked, declared, "must be more than dots here: it is a piece of a URL's path"));
        }
        // Only its length is left to be wrong: a value adds nothing that is not allowed.
        url.parse().map_err(|error| self.refusal(asked, declared, &format!("makes no URL: {error}")))
    }

    /// Of the values in this URL the one of dots, or else any.
    fn refusal(&self, asked: &Asked, declared: &Declared, problem: &str) -> Refusal {
        let names = declared.names();
        let mut named =
            names.iter().filter(|name| self.template.to_string().contains(&format!("{{parameters.{name}}}")));
        let first = named.clone().next();
        let name = named.find(|name| asked.value(name).bytes().all(|byte| byte == b'.')).or(first);
        Refusal::invalid(name.map_or("id".to_owned(), |name| format!("parameters.{name}")), problem)
    }

    /// As it is written, without its query: that may hold a key.
    pub(super) fn shown(&self) -> String {
        let written = self.template.to_string();
        written.split('?').next().unwrap_or_default().to_owned()
    }

    /// The whole of it as it is written.
    pub(super) fn template(&self) -> &Template {
        &self.template
    }
}

/// What is wrong with the text of a URL.
fn check(template: &Template) -> Result<(), String> {
    let (one, two) = (template.fill_all("x"), template.fill_all("yy"));
    let parsed = |text: &str| text.parse::<Uri>().map_err(|error| format!("`{template}` is no URL: {error}"));
    let (url, other) = (parsed(&one)?, parsed(&two)?);
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(format!("`{template}`: it begins with http:// or https://"));
    }
    if url.scheme() != other.scheme() || url.authority() != other.authority() {
        return Err(format!(
            "`{template}`: neither {{id}} nor a parameter has a place in the host; write a source for each"
        ));
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("no user and password in a URL; write headers.authorization".into());
    }
    if !has_good_port(&url) {
        return Err(format!("`{template}`: a port is a number up to 65535"));
    }
    if one.contains('#') {
        return Err(format!("`{template}`: what is behind # is never sent; leave it out, or write %23"));
    }
    let path = url.path();
    if dots(&one).any(|is| is) && path.split('/').any(is_dots) {
        return Err(format!("`{template}`: write the path without `.` and `..`"));
    }
    let escapes = one.split('%').skip(1);
    let is_hexadecimal =
        |rest: &str| rest.as_bytes().iter().take(2).filter(|byte| byte.is_ascii_hexdigit()).count() == 2;
    if !escapes.into_iter().all(is_hexadecimal) {
        return Err(format!("`{template}`: two hexadecimal digits follow a %; write %25 for the sign itself"));
    }
    Ok(())
}

/// Whether there is no port, or one that can be: otherwise the usual one would be taken for it.
fn has_good_port(url: &Uri) -> bool {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    url.port_u16().is_some() || url.host().is_some_and(|host| !host.is_empty() && host == authority)
}

/// Of each piece of the path, whether it is nothing or dots. Values add no piece.
fn dots(url: &str) -> impl Iterator<Item = bool> {
    let path = url.split('?').next().unwrap_or_default();
    path.split('/').map(|piece| piece.is_empty() || is_dots(piece))
}

/// Whether it names the folder itself or the one above, as those read it who take `%2e` for a dot, too.
fn is_dots(piece: &str) -> bool {
    let plain = piece.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

/// Appends a value as one piece of a path, or one of a query: everything but RFC 3986's unreserved characters as `%XX`.
fn escape(value: &str, text: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            text.extend([
                '%',
                char::from(DIGITS[usize::from(byte >> 4)]),
                char::from(DIGITS[usize::from(byte & 15)]),
            ]);
        }
    }
}

/// Where an answer sends its reader: `location`, as seen from `base` (RFC 3986 section 5.2, without its fragment).
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let has_scheme = location.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
    let text = if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let url: Uri = text.parse().ok()?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_http || url.authority()?.as_str().contains('@') || !has_good_port(&url) {
        return None;
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}://{}{}{query}", url.scheme_str()?, url.authority()?, without_dots(url.path())).parse().ok()
}

/// RFC 3986 section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut pieces: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for piece in path.split('/').skip(1) {
        ends_in_folder = is_dots(piece);
        match piece.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "." => {}
            ".." => _ = pieces.pop(),
            _ => pieces.push(piece),
        }
    }
    if ends_in_folder {
        pieces.push("");
    }
    format!("/{}", pieces.join("/"))
}

/// Whether what is meant for the one may be shown to the other: the same scheme, host and port (RFC 6454).
pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |url: &Uri| url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |url: &Uri| url.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

#[cfg(test)]
mod tests;
