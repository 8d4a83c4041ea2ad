//! The files of the console, embedded in the binary, and the replies to requests for them.

use std::fmt::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use sha2::{Digest as _, Sha256};

/// Scripts, styles and calls are limited to the page's own origin, inline ones are not allowed, no other page may frame
/// it, and no script may turn a text into HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Browsers ask for each file again and get 304 until a new version of the server is installed.
const CACHING: &str = "no-cache";

/// The headers of every file beside those that depend on it.
const HEADERS: [(HeaderName, &str); 7] = [
    (CACHE_CONTROL, CACHING),
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the console.
#[derive(Debug)]
pub(super) struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
    /// Strong validator: a hash of the content.
    etag: HeaderValue,
}

/// Defines the table of files: `"path" => TYPE` is a file below `console/` with the same path on the server.
macro_rules! files {
    ($($path:literal => $content_type:ident,)*) => {
        [$(File::new(concat!("/console/", $path), $content_type, include_bytes!(concat!("../../console/", $path))),)*]
    };
}

static INDEX: LazyLock<File> =
    LazyLock::new(|| File::new("/", HTML, include_bytes!("../../console/index.html")));

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    Vec::from(files! {
        "css/base.css" => CSS,
        "css/conversation.css" => CSS,
        "css/inspector.css" => CSS,
        "css/lists.css" => CSS,
        "favicon.svg" => SVG,
        "js/access.js" => SCRIPT,
        "js/api.js" => SCRIPT,
        "js/changes.js" => SCRIPT,
        "js/content.js" => SCRIPT,
        "js/conversation.js" => SCRIPT,
        "js/conversation_head.js" => SCRIPT,
        "js/conversation_keys.js" => SCRIPT,
        "js/dialogs.js" => SCRIPT,
        "js/dom.js" => SCRIPT,
        "js/edits.js" => SCRIPT,
        "js/event_list.js" => SCRIPT,
        "js/feed.js" => SCRIPT,
        "js/filters.js" => SCRIPT,
        "js/follow.js" => SCRIPT,
        "js/format.js" => SCRIPT,
        "js/heights.js" => SCRIPT,
        "js/inspector.js" => SCRIPT,
        "js/json_view.js" => SCRIPT,
        "js/keyboard.js" => SCRIPT,
        "js/list_view.js" => SCRIPT,
        "js/live.js" => SCRIPT,
        "js/main.js" => SCRIPT,
        "js/markdown.js" => SCRIPT,
        "js/markdown_inline.js" => SCRIPT,
        "js/notices.js" => SCRIPT,
        "js/orders.js" => SCRIPT,
        "js/pager.js" => SCRIPT,
        "js/router.js" => SCRIPT,
        "js/row_head.js" => SCRIPT,
        "js/rows.js" => SCRIPT,
        "js/sessions.js" => SCRIPT,
        "js/sign_in.js" => SCRIPT,
        "js/spirits.js" => SCRIPT,
        "js/theme.js" => SCRIPT,
        "js/time_strip.js" => SCRIPT,
        "js/tool_rows.js" => SCRIPT,
        "js/virtual_list.js" => SCRIPT,
    })
});

/// Returns the file with this path.
pub(super) fn find(path: &str) -> Option<&'static File> {
    if path == INDEX.path {
        return Some(&INDEX);
    }
    FILES.iter().find(|file| file.path == path)
}

impl File {
    fn new(path: &'static str, content_type: &'static str, content: &'static [u8]) -> Self {
        let mut etag = String::from("\"");
        for byte in &Sha256::digest(content)[..16] {
            write!(etag, "{byte:02x}").expect("writing to a String cannot fail");
        }
        etag.push('"');
        Self {
            path,
            content_type,
            content,
            etag: HeaderValue::try_from(etag).expect("hexadecimal digits in quotes are a header value"),
        }
    }

    /// Returns the reply to a GET or HEAD with these headers; without content for HEAD, and as 304 if the client has
    /// this version.
    pub(super) fn reply(&self, headers: &HeaderMap, is_head: bool) -> Response<Option<Bytes>> {
        let is_known = self.is_known(headers);
        let body = (!is_head && !is_known).then(|| Bytes::from_static(self.content));
        let mut response = Response::new(body);
        let reply = response.headers_mut();
        reply.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        reply.insert(ETAG, self.etag.clone());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            reply.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            reply.insert(CONTENT_LENGTH, HeaderValue::from(self.content.len()));
        }
        response
    }

    /// Returns whether the client has this version of the file.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The paths of the files below a directory.
    fn paths_below(directory: &Path, prefix: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{error}"));
        let mut paths = BTreeSet::new();
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("{error}"));
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                paths.append(&mut paths_below(&entry.path(), &format!("{path}/")));
            } else {
                paths.insert(path);
            }
        }
        paths
    }

    #[test]
    fn every_file_of_the_directory_is_served() {
        let mut expected = paths_below(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("console"),
            "/console/",
        );
        expected.remove("/console/index.html");
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(served, expected);
    }
}
