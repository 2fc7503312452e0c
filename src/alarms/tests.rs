//! Each alarm raised and cleared by samples, with time passed in.

use super::*;

const NOW: i64 = 1_800_000_000;

/// A minute of samples, one a second; answers label and subject of what was raised and cleared.
struct Edge {
    alarms: Alarms,
    start: Instant,
    second: u64,
}

impl Edge {
    fn new() -> Edge {
        Edge { alarms: Alarms::default(), start: Instant::now(), second: 0 }
    }

    fn tick(&mut self, sample: &Sample) -> Vec<String> {
        let now = self.start + Duration::from_secs(self.second);
        self.second += 1;
        let changes = self.alarms.observe(now, NOW + self.second as i64, sample);
        let tell = |sign, s: Standing| format!("{sign}{} {}", s.alarm, s.subject).trim().to_owned();
        let told = changes.into_iter().map(|change| match change {
            Change::Raised(standing) => tell('+', standing),
            Change::Cleared(standing) => tell('-', standing),
        });
        told.collect()
    }
}

/// Raised by `bad` at once, cleared by `good` after as many seconds.
#[track_caller]
fn check(good: &Sample, bad: &Sample, alarm: &str, seconds: u64) {
    let mut edge = Edge::new();
    assert!(edge.tick(good).is_empty());
    assert_eq!(edge.tick(bad), [format!("+{alarm}")]);
    assert!(edge.tick(bad).is_empty(), "told twice");
    let first = edge.alarms.standing().remove(0);
    assert!(!first.meaning.is_empty() && !first.remedy.is_empty() && !first.detail.is_empty());
    assert_eq!(first.since_unix, NOW + 2);
    for _ in 1..seconds {
        assert!(edge.tick(good).is_empty(), "cleared too early");
    }
    assert_eq!(edge.tick(good), [format!("-{alarm}")]);
    assert!(!edge.alarms.any());
}

fn queue(site: Option<&str>, depth: u64, oldest: u64, admitted: u64) -> QueueSample {
    let queue = if site.is_some() { "request" } else { "handshake" };
    let (site, oldest) = (site.map(str::to_owned), Duration::from_millis(oldest));
    QueueSample { queue, site, depth, oldest, admitted }
}

fn calm() -> Sample {
    Sample { age_alarm: Duration::from_secs(2), ..Sample::default() }
}

#[test]
fn an_accept_queue_over_half_is_an_alarm() {
    let with = |length| {
        let listener = "[::]:443".to_owned();
        Sample { accept_queues: vec![AcceptQueue { listener, length, limit: 100 }], ..calm() }
    };
    check(&with(50), &with(51), "accept-queue [::]:443", 10);
}

#[test]
fn an_overflow_is_told_for_a_minute() {
    let with = |overflows| Sample { overflows, overflowing: "[::]:443".into(), ..calm() };
    let mut edge = Edge::new();
    assert!(edge.tick(&with(0)).is_empty());
    assert_eq!(edge.tick(&with(1)), ["+accept-overflow [::]:443"]);
    for _ in 0..59 {
        assert!(edge.tick(&with(1)).is_empty());
    }
    assert_eq!(edge.tick(&with(1)), ["-accept-overflow [::]:443"]);
}

#[test]
fn an_old_waiter_is_an_alarm_that_names_the_site() {
    let with = |oldest| Sample { queues: vec![queue(Some("shop"), 3, oldest, 0)], ..calm() };
    let mut edge = Edge::new();
    assert!(edge.tick(&with(2_000)).is_empty());
    assert_eq!(edge.tick(&with(2_001)), ["+queue-age shop"]);
    assert_eq!(edge.alarms.standing()[0].site.as_deref(), Some("shop"));
    assert_eq!(edge.alarms.counts().iter().find(|(a, _)| *a == "queue-age").unwrap().1, 1);
}

#[test]
fn a_queue_that_lets_nothing_out_for_ten_seconds_stands_still() {
    let with = |depth, admitted| Sample { queues: vec![queue(None, depth, 0, admitted)], ..calm() };
    let mut edge = Edge::new();
    for admitted in 0..20 {
        assert!(edge.tick(&with(5, admitted)).is_empty(), "it moves");
    }
    for _ in 0..9 {
        assert!(edge.tick(&with(5, 19)).is_empty());
    }
    assert_eq!(edge.tick(&with(5, 19)), ["+queue-stalled handshake"]);
    assert!(edge.tick(&with(5, 20)).is_empty());
    let mut empty = Edge::new();
    for _ in 0..30 {
        assert!(empty.tick(&with(0, 0)).is_empty(), "an empty queue cannot stand still");
    }
}

#[test]
fn a_site_whose_server_answers_nobody_for_ten_seconds_is_told() {
    let mut edge = Edge::new();
    let begun = edge.start;
    let silent = |awaited, answered| Sample {
        unanswered: vec![AwaitingSite { site: "shop".into(), awaited, answered }],
        ..calm()
    };
    for second in 0..20 {
        let answered = Some(begun + Duration::from_secs(second));
        assert!(edge.tick(&silent(2, answered)).is_empty(), "it answers now and then");
    }
    let last = Some(begun + Duration::from_secs(19));
    for _ in 0..7 {
        assert!(edge.tick(&silent(3, last)).is_empty());
    }
    assert_eq!(edge.tick(&silent(3, last)), ["+queue-stalled shop"]);
    let standing = edge.alarms.standing().remove(0);
    assert_eq!(standing.detail, "3 requests wait for an answer, none came for 8 s");
    assert_eq!(standing.site.as_deref(), Some("shop"));
    // Where its queue stands as well, it is told once.
    let queues = vec![queue(Some("shop"), 5, 0, 0)];
    for _ in 0..20 {
        assert!(edge.tick(&Sample { queues: queues.clone(), ..silent(3, last) }).is_empty());
    }
    assert_eq!(edge.alarms.standing().len(), 1);
    for _ in 0..9 {
        assert!(edge.tick(&calm()).is_empty());
    }
    assert_eq!(edge.tick(&calm()), ["-queue-stalled shop"]);
}

#[test]
fn a_few_refusals_are_no_alarm_but_a_burst_is() {
    let with = |handshakes_refused| Sample { handshakes_refused, ..calm() };
    let mut edge = Edge::new();
    assert!(edge.tick(&with(0)).is_empty());
    assert!(edge.tick(&with(4)).is_empty());
    for _ in 0..20 {
        assert!(edge.tick(&with(4)).is_empty());
    }
    assert_eq!(edge.tick(&with(9)), ["+handshakes-refused"]);
    let requests = |requests_refused| Sample { requests_refused, ..calm() };
    let mut edge = Edge::new();
    assert!(edge.tick(&requests(100)).is_empty());
    assert_eq!(edge.tick(&requests(105)), ["+requests-refused"]);
}

#[test]
fn refusals_name_the_site_with_most_of_them() {
    let with = |shop, blog| Sample {
        requests_refused: shop + blog,
        requests_refused_at: vec![("shop".into(), shop), ("blog".into(), blog)],
        ..calm()
    };
    let mut edge = Edge::new();
    edge.tick(&with(0, 0));
    assert_eq!(edge.tick(&with(1, 6)), ["+requests-refused"]);
    let told = |edge: &Edge| {
        let standing = edge.alarms.standing().remove(0);
        (standing.site.unwrap_or_default(), standing.detail)
    };
    let detail = "7 requests refused in ten seconds, most of them at blog: 6";
    assert_eq!(told(&edge), ("blog".into(), detail.into()));
    assert!(edge.tick(&with(20, 6)).is_empty(), "it is the same alarm, at another site");
    assert_eq!(told(&edge).0, "shop");
}

#[test]
fn an_alarm_that_stands_on_tells_when_its_cause_was_last_seen() {
    let mut edge = Edge::new();
    edge.tick(&calm());
    edge.tick(&Sample { overflows: 3, ..calm() });
    let last_seen = |edge: &Edge| {
        let now = NOW + edge.second as i64;
        edge.alarms.standing().remove(0).last_seen(now)
    };
    assert_eq!(last_seen(&edge), "");
    for _ in 0..34 {
        edge.tick(&Sample { overflows: 3, ..calm() });
    }
    assert_eq!(last_seen(&edge), ", last seen 34 s ago");
}

#[test]
fn a_queue_s_alarm_says_what_to_do_about_that_queue() {
    let remedy = |one: QueueSample| {
        let mut edge = Edge::new();
        edge.tick(&Sample { queues: vec![one], ..calm() });
        edge.alarms.standing().remove(0).remedy
    };
    assert!(remedy(queue(None, 5, 9_000, 0)).contains("cores"));
    assert!(remedy(queue(Some("handshake"), 5, 9_000, 0)).contains("endpoints"));
}

#[test]
fn a_certificate_s_end_warns_and_then_alarms() {
    let with = |left| Sample { certificates: vec![("a.example".into(), NOW + left)], ..calm() };
    let days = 24 * 60 * 60;
    check(&with(22 * days), &with(20 * days), "certificate-expiring a.example", 1);
    check(&with(22 * days), &with(5 * days), "certificate-ends-soon a.example", 1);
    check(&with(22 * days), &with(0), "certificate-expired a.example", 1);
    // The week's begin is told however long the warning has stood.
    let mut edge = Edge::new();
    assert_eq!(edge.tick(&with(20 * days)), ["+certificate-expiring a.example"]);
    assert_eq!(edge.alarms.standing()[0].urgency, Urgency::Warning);
    let told = edge.tick(&with(5 * days));
    assert_eq!(told, ["+certificate-ends-soon a.example", "-certificate-expiring a.example"]);
    assert_eq!(edge.alarms.standing()[0].urgency, Urgency::Critical);
}

#[test]
fn of_many_certificates_the_soonest_to_end_are_named() {
    let days = |left: i64| NOW + left * 24 * 60 * 60;
    let mut certificates: Vec<(String, i64)> =
        (0..90).map(|at| (format!("a-{at:02}.example"), days(20))).collect();
    certificates.push(("z.example".into(), days(8)));
    let mut edge = Edge::new();
    edge.tick(&Sample { certificates, ..calm() });
    let standing = edge.alarms.standing();
    assert_eq!(standing.len(), SUBJECTS_MAX + 1);
    assert!(standing.iter().any(|alarm| alarm.subject == "z.example"), "the soonest is named");
}

#[test]
fn states_of_the_configuration_clear_at_once() {
    let pair = || vec![("a".to_owned(), "why".to_owned())];
    check(&calm(), &Sample { certificates_kept: pair(), ..calm() }, "certificate-kept a", 1);
    let certificate_sites = [("a".to_owned(), "shop".to_owned())].into();
    let mut edge = Edge::new();
    edge.tick(&Sample { certificates_kept: pair(), certificate_sites, ..calm() });
    assert_eq!(edge.alarms.standing()[0].site.as_deref(), Some("shop"));
    let refused = Sample { reload_refused: Some("sluss.toml:3: no".into()), ..calm() };
    check(&calm(), &refused, "reload-refused", 1);
    let part =
        BrokenPart { part: "site a".into(), site: Some("a".into()), why: "a.toml:3: no".into() };
    for (alarm, sample) in [
        ("reload-partly", Sample { parts_kept: vec![part.clone()], ..calm() }),
        ("not-served", Sample { parts_absent: vec![part.clone()], ..calm() }),
    ] {
        check(&calm(), &sample, &format!("{alarm} site a"), 1);
        let mut edge = Edge::new();
        edge.tick(&sample);
        assert_eq!(edge.alarms.standing()[0].site.as_deref(), Some("a"), "{alarm}");
    }
    let differs = Sample { machine_differs: Some("8 cores, measured on 2".into()), ..calm() };
    check(&calm(), &differs, "machine-differs", 1);
}

#[test]
fn sites_without_endpoint_and_scarce_resources_are_alarms() {
    let down = Sample { sites_down: vec![("a".into(), "refused".into())], ..calm() };
    check(&calm(), &down, "upstreams-down a", 10);
    let held = |held| Sample { connections: (held, 1_000), ..calm() };
    check(&held(899), &held(900), "connections", 60);
    let used = |used| Sample { descriptors: (used, 1_000), ..calm() };
    check(&used(899), &used(900), "descriptors", 60);
    let memory = |used| Sample { memory: (used, 1 << 30), ..calm() };
    check(&memory(1 << 29), &memory(1 << 30), "memory", 60);
    let unbounded = Sample { memory: (1 << 40, 0), ..calm() };
    assert!(Edge::new().tick(&unbounded).is_empty());
}

#[test]
fn a_log_that_fails_or_drops_is_an_alarm() {
    let failing = AccessLogHealth { failure: Some("disk full".into()), dropped: 3 };
    check(&calm(), &Sample { access_log: failing, ..calm() }, "access-log", 60);
    let dropped =
        |dropped| Sample { access_log: AccessLogHealth { failure: None, dropped }, ..calm() };
    let mut edge = Edge::new();
    assert!(edge.tick(&dropped(0)).is_empty());
    assert_eq!(edge.tick(&dropped(7)), ["+access-log"]);
}

#[test]
fn a_day_on_which_all_sites_fail_is_one_page() {
    let sites_down = (0..50_000).map(|at| (format!("site-{at:05}"), "x".to_owned())).collect();
    let mut edge = Edge::new();
    assert_eq!(edge.tick(&Sample { sites_down, ..calm() }).len(), SUBJECTS_MAX + 1);
    let standing = edge.alarms.standing();
    let others = standing.iter().find(|alarm| alarm.subject == OTHERS).unwrap();
    assert_eq!(others.detail, "49950 more");
}

#[test]
fn critical_alarms_stand_first_and_labels_are_unique() {
    let sample = Sample {
        reload_refused: Some("x".into()),
        sites_down: vec![("a".into(), "x".into())],
        ..calm()
    };
    let mut edge = Edge::new();
    edge.tick(&sample);
    assert_eq!(edge.alarms.standing()[0].alarm, "upstreams-down");
    let labels: std::collections::BTreeSet<_> = Alarm::ALL.iter().map(|a| a.label()).collect();
    assert_eq!(labels.len(), Alarm::ALL.len());
}

#[test]
fn the_documentation_lists_every_alarm() {
    let page = include_str!("../../docs/alarms.md");
    for alarm in Alarm::ALL {
        assert!(page.contains(&format!("`{}`", alarm.label())), "{}", alarm.label());
    }
}
