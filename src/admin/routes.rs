//! Paths to answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tower::BoxError;

use crate::alarms::readable;
use crate::config::report::ReloadResult;

use super::data::{Health, Phase, SiteRow, SitesPage};
use super::security::{Access, Denied};
use super::{Admin, page};

pub(super) type Request = http::Request<Incoming>;
pub(super) type Response = http::Response<Full<Bytes>>;

/// Answers one request; whatever its body is, it is not read.
pub(super) async fn answer(admin: &Arc<Admin>, request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let access = match admin.security.judge(method, path, request.headers()) {
        Ok(access) => access,
        Err(denied) => return deny(denied),
    };
    let is_reload = path == "/api/reload" && *method == Method::POST;
    if !is_reload && !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET here\n");
        let allow = if path == "/api/reload" { "GET, HEAD, POST" } else { "GET, HEAD" };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return response;
    }
    match path {
        "/" => page(),
        "/metrics" => metrics(admin).await,
        "/healthz" => health(admin, access),
        "/readyz" => ready(admin),
        "/api/status" => {
            let since = parameter(&request, "since").and_then(|since| since.parse().ok());
            json(&admin.status(since))
        }
        "/api/sites" => {
            let question = match Question::read(&request) {
                Ok(question) => question,
                Err(why) => return text(StatusCode::BAD_REQUEST, why),
            };
            blocking(admin, move |admin| json(&question.answer(admin.view.sites()))).await
        }
        "/api/certificates" => blocking(admin, |admin| json(&admin.view.certificates())).await,
        "/api/findings" => findings(admin, &request).await,
        "/api/reload" if is_reload => reload(admin).await,
        "/api/reload" => reloads(admin),
        _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
    }
}

/// The answer where tower's stages gave up.
pub(super) fn late(_: BoxError) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n")
}

/// Runs what may take milliseconds off the control thread, which has signals to hear.
async fn blocking<F>(admin: &Arc<Admin>, work: F) -> Response
where
    F: FnOnce(&Admin) -> Response + Send + 'static,
{
    let admin = admin.clone();
    let done = tokio::task::spawn_blocking(move || work(&admin)).await;
    done.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "failed\n"))
}

/// With `limit` the most frequent: a store of many sites is megabytes.
async fn findings(admin: &Arc<Admin>, request: &Request) -> Response {
    let site = parameter(request, "site");
    let limit = match number(request, "limit") {
        Ok(limit) => limit,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    blocking(admin, move |admin| {
        let mut rows = admin.view.findings();
        rows.retain(|row| site.as_ref().is_none_or(|site| row.site == *site));
        if let Some(limit) = limit {
            rows.sort_by_key(|row| std::cmp::Reverse(row.count));
            rows.truncate(limit);
        }
        json(&rows)
    })
    .await
}

async fn metrics(admin: &Arc<Admin>) -> Response {
    blocking(admin, |admin| {
        let text = admin.metrics_text();
        finished(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
    })
    .await
}

/// Degraded is still 200: taking an edge that serves out of rotation makes matters worse.
fn health(admin: &Admin, access: Access) -> Response {
    let status = admin.status(None);
    let mut lines = match status.health {
        Health::Ok => "ok\n".to_owned(),
        Health::Degraded => "degraded\n".to_owned(),
    };
    if access == Access::Full {
        for alarm in &status.alarms {
            let (label, subject, detail) = (&alarm.alarm, &alarm.subject, &alarm.detail);
            let subject = if subject.is_empty() { "-" } else { subject };
            let since = rfc3339(alarm.since_unix);
            let age = status.now_unix.saturating_sub(alarm.since_unix).max(0);
            let age = readable(Duration::from_secs(age.unsigned_abs()));
            let seen = alarm.last_seen(status.now_unix);
            lines
                .push_str(&format!("{label} {subject} since {since}, for {age}{seen}: {detail}\n"));
        }
    }
    text(StatusCode::OK, lines)
}

fn rfc3339(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| unix.to_string())
}

fn ready(admin: &Admin) -> Response {
    match admin.view.serving().phase {
        Phase::Serving => text(StatusCode::OK, "ready\n"),
        Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn reload(admin: &Admin) -> Response {
    let report = admin.view.reload().await;
    let mut response = json(&report);
    if report.result == ReloadResult::Refused {
        *response.status_mut() = StatusCode::CONFLICT;
    }
    response
}

/// The last report with the earlier ones in it; an object without `result` before the first.
fn reloads(admin: &Admin) -> Response {
    let rows = admin.view.reloads();
    let Some((last, earlier)) = rows.split_first() else { return json(&serde_json::json!({})) };
    let mut last = serde_json::to_value(last).unwrap_or_default();
    last["earlier"] = serde_json::to_value(earlier).unwrap_or_default();
    json(&last)
}

fn page() -> Response {
    let mut response =
        finished(StatusCode::OK, "text/html; charset=utf-8", Bytes::from_static(page::html()));
    let policy = HeaderValue::from_static(page::policy());
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response
}

fn deny(denied: Denied) -> Response {
    let mut response = text(denied.status(), denied.text());
    if denied == Denied::Token {
        // A browser then asks for a password: the dashboard works with any user name.
        let basic = HeaderValue::from_static("Basic realm=\"sluss\", charset=\"UTF-8\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    }
    response
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => finished(StatusCode::OK, "application/json", body.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "failed\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    finished(status, "text/plain; charset=utf-8", body.into())
}

fn finished(status: StatusCode, kind: &'static str, body: Bytes) -> Response {
    const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    let mut response = http::Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

/// The value of a query parameter, percent-decoded.
fn parameter(request: &Request, name: &str) -> Option<String> {
    let mut pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| percent_decode(value))
}

/// The value of a query parameter that is a number, where there is one.
fn number(request: &Request, name: &str) -> Result<Option<usize>, String> {
    match parameter(request, name).as_deref() {
        None | Some("") => Ok(None),
        Some(text) => {
            text.parse().map(Some).map_err(|_| format!("{name}={text}: expected a number\n"))
        }
    }
}

fn percent_decode(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Columns by which sites are sorted.
const SORTS: [&str; 12] = [
    "site",
    "requests",
    "requests_per_second",
    "server_errors",
    "refused",
    "p50_ms",
    "p99_ms",
    "waiting",
    "oldest_seconds",
    "in_flight",
    "findings",
    "endpoints",
];

/// Which sites are asked for: `?q=TEXT&sort=COLUMN&order=asc&from=0&limit=50&troubled=1`.
#[derive(Debug, Default)]
struct Question {
    text: String,
    sort: String,
    ascending: bool,
    from: usize,
    limit: Option<usize>,
    troubled: bool,
}

impl Question {
    /// What cannot be meant is told, not ignored: the answer would be to another question.
    fn read(request: &Request) -> Result<Question, String> {
        let sort = parameter(request, "sort").unwrap_or_default();
        if !sort.is_empty() && !SORTS.contains(&sort.as_str()) {
            return Err(format!("sort={sort}: expected one of {}\n", SORTS.join(", ")));
        }
        Ok(Question {
            text: parameter(request, "q").unwrap_or_default().to_lowercase(),
            sort,
            ascending: parameter(request, "order").as_deref() == Some("asc"),
            from: number(request, "from")?.unwrap_or(0),
            limit: number(request, "limit")?,
            troubled: parameter(request, "troubled").as_deref() == Some("1"),
        })
    }

    fn answer(&self, mut sites: Vec<SiteRow>) -> SitesPage {
        sites.retain(|site| self.meets(site));
        sites.sort_by(|a, b| a.summary.site.cmp(&b.summary.site));
        if self.sort.is_empty() || self.sort == "site" {
            if self.sort == "site" && !self.ascending {
                sites.reverse();
            }
        } else {
            // Equal ones stay in the order of their names.
            sites.sort_by(|a, b| {
                let order = self.key(a).total_cmp(&self.key(b));
                if self.ascending { order } else { order.reverse() }
            });
        }
        let total = sites.len();
        let limit = self.limit.unwrap_or(usize::MAX);
        let sites = sites.into_iter().skip(self.from).take(limit).collect();
        SitesPage { total, sites }
    }

    fn meets(&self, site: &SiteRow) -> bool {
        let named = self.text.is_empty()
            || site.summary.site.to_lowercase().contains(&self.text)
            || site.customer.to_lowercase().contains(&self.text)
            || site.hosts.iter().any(|host| host.contains(&self.text));
        let down = || site.endpoints.iter().any(|endpoint| endpoint.state != "up");
        named && (!self.troubled || site.waiting > 0 || site.kept || down())
    }

    fn key(&self, site: &SiteRow) -> f64 {
        let summary = &site.summary;
        match self.sort.as_str() {
            "requests" => summary.requests as f64,
            "server_errors" => summary.server_errors as f64,
            "refused" => summary.refused as f64,
            "p50_ms" => summary.p50_ms.unwrap_or(0.0),
            "p99_ms" => summary.p99_ms.unwrap_or(0.0),
            "waiting" => site.waiting as f64,
            "oldest_seconds" => site.oldest_seconds,
            "in_flight" => site.in_flight as f64,
            "findings" => site.findings as f64,
            "endpoints" => {
                site.endpoints.iter().filter(|endpoint| endpoint.state != "up").count() as f64
            }
            _ => summary.requests_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::SiteSummary;

    fn site(name: &str, requests: u64, waiting: u64) -> SiteRow {
        SiteRow {
            summary: SiteSummary { site: name.into(), requests, ..SiteSummary::default() },
            customer: format!("customer-{name}"),
            hosts: vec![format!("{name}.example")],
            waiting,
            waiting_limit: 256,
            oldest_seconds: 0.0,
            in_flight: 0,
            in_flight_limit: 0,
            findings: 0,
            kept: false,
            endpoints: Vec::new(),
        }
    }

    #[track_caller]
    fn check(question: &Question, expected: &[&str]) {
        let sites = vec![site("b", 5, 0), site("c", 9, 1), site("a", 5, 0)];
        let page = question.answer(sites);
        let names: Vec<&str> = page.sites.iter().map(|row| row.summary.site.as_str()).collect();
        assert_eq!(names, expected, "{question:?}");
    }

    #[test]
    fn sites_are_found_sorted_and_cut() {
        check(&Question::default(), &["a", "b", "c"]);
        let by = |sort: &str| Question { sort: sort.into(), ..Question::default() };
        check(&by("requests"), &["c", "a", "b"]);
        check(&Question { ascending: true, ..by("requests") }, &["a", "b", "c"]);
        check(&by("site"), &["c", "b", "a"]);
        check(&Question { text: "b.exa".into(), ..Question::default() }, &["b"]);
        check(&Question { troubled: true, ..Question::default() }, &["c"]);
        check(&Question { from: 1, limit: Some(1), ..Question::default() }, &["b"]);
    }

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(percent_decode("a%20b+c%2"), "a b c%2");
        assert_eq!(percent_decode("%C3%A9%zz%"), "é%zz%");
    }
}
