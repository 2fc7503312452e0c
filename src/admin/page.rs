//! The dashboard: one page, put together once from its three sources.
//!
//! It loads nothing from outside and runs nothing but its own script and style: the
//! Content-Security-Policy names their hashes. All text reaches the page as text nodes.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};

use super::security::base64;

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const CHARTS: &str = include_str!("page/charts.js");
const SCRIPT: &str = include_str!("page/dashboard.js");

struct Page {
    html: String,
    policy: String,
}

static PAGE: OnceLock<Page> = OnceLock::new();

/// The whole page.
pub(super) fn html() -> &'static [u8] {
    PAGE.get_or_init(compose).html.as_bytes()
}

/// Its Content-Security-Policy.
pub(super) fn policy() -> &'static str {
    &PAGE.get_or_init(compose).policy
}

fn compose() -> Page {
    let script = format!("\"use strict\";\n{CHARTS}\n{SCRIPT}");
    let html = FRAME.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", &script);
    let hash = |source: &str| base64(digest(&SHA256, source.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(&script),
        hash(STYLE)
    );
    Page { html, policy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing_from_outside() {
        let page = compose();
        assert!(!page.html.contains("/*STYLE*/") && !page.html.contains("/*SCRIPT*/"));
        for outside in ["src=\"http", "href=\"http", "@import", "url(http", "innerHTML", "eval("] {
            assert!(!page.html.contains(outside), "{outside}");
        }
        let inline = ["onclick=", "onload=", "style=\"", "javascript:"];
        assert!(inline.iter().all(|word| !page.html.contains(word)));
        assert_eq!(page.html.matches("</script>").count(), 1);
        assert_eq!(page.html.matches("</style>").count(), 1);
    }
}
