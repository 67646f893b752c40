//! The page at `/`: what this is, and how to send a first event.

use crate::settings::Origin;

/// The page, as plain text that a terminal and a browser both show.
pub(crate) fn page(version: &str, origin: &Origin) -> String {
    let scheme = if origin.encrypted { "https" } else { "http" };
    let host = &origin.host;
    // A first certificate is our own.
    let insecure = if origin.encrypted { " -k" } else { "" };
    format!(
        "Tracklog {version}\n\
         \n\
         Send a first event (the write key is printed at the first start, and in default.key):\n\
         \n\
         \x20   curl{insecure} -u WRITE_KEY: {scheme}://{host}/v1/track \\\n\
         \x20     -d '{{\"event\":\"Hello\",\"userId\":\"1\",\"properties\":{{\"n\":1}}}}'\n\
         \n\
         or several, with a verdict for each:\n\
         \n\
         \x20   curl{insecure} -u WRITE_KEY: {scheme}://{host}/v1/events \\\n\
         \x20     -d '[{{\"type\":\"track\",\"event\":\"Hello\",\"userId\":\"1\"}}]'\n\
         \n\
         Segment's and RudderStack's SDKs work with this host in place of theirs.\n\
         Health: /livez /readyz   Read back: tracklog replay raw\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_version_and_a_curl_for_this_very_host() {
        let origin = Origin { host: "127.0.0.1:8443".to_owned(), encrypted: true };
        let page = page("0.1.0", &origin);
        assert!(page.starts_with("Tracklog 0.1.0\n"));
        assert!(page.contains("curl -k -u WRITE_KEY: https://127.0.0.1:8443/v1/track"), "{page}");
    }
}
