//! The four bad nights of `sluss demo --incident`: the cause, the alarm within ten seconds, what
//! visitors meet, and the end of it.

use std::time::{Duration, Instant};

use crate::support::Edge;

/// A demo whose story is read as it is told.
struct Night {
    edge: Edge,
}

impl Night {
    fn of(incident: &str) -> Night {
        Night { edge: Edge::demo(incident) }
    }

    /// Waits for a line with this; answers how many seconds into the story it was told. The bound
    /// is the story's own length and more: the machine may be crowded.
    #[track_caller]
    fn tells(&self, what: &str) -> u64 {
        let begun = Instant::now();
        loop {
            let told = self.edge.printed();
            if let Some(line) = told.lines().find(|line| line.contains(what)) {
                let (seconds, _) = line.split_once(" s ").expect("a line of the story");
                return seconds.trim().parse().expect("seconds");
            }
            assert!(begun.elapsed() < Duration::from_secs(180), "never told: {what}\n{told}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The alarm is raised within ten seconds of the cause; metric and command tell it.
    #[track_caller]
    fn raises(&self, cause: &str, alarm: &str) {
        let (begun, raised) = (self.tells(cause), self.tells(&format!("ALARM {alarm}")));
        assert!(raised <= begun + 10, "{alarm} after {} s", raised - begun);
        assert!(self.edge.alarms(alarm) >= 1.0, "{alarm} is in the metrics");
        let status = self.edge.admin_json("/api/status");
        let standing = status["alarms"].as_array().unwrap();
        assert!(standing.iter().any(|one| one["alarm"] == alarm), "{alarm} is in the status");
        let raised = format!("alarm raised alarm=\"{alarm}\"");
        assert!(self.edge.told().contains(&raised), "{alarm} is in the log");
    }

    #[track_caller]
    fn clears(&self, alarm: &str) {
        self.tells(&format!("cleared {alarm}"));
    }

    /// The story ends with no alarm left, and a signal ends the demo.
    #[track_caller]
    fn ends(mut self) {
        self.tells("over.");
        let status = self.edge.admin_json("/api/status");
        assert_eq!(status["alarms"].as_array().unwrap().len(), 0, "{status}");
        self.edge.signal(rustix::process::Signal::INT);
        assert!(self.edge.ended().success());
    }
}

#[test]
fn a_flood_fills_the_handshake_queue_and_then_the_kernels() {
    let night = Night::of("queues");
    night.raises("say hello for the blog and fall silent", "handshakes-refused");
    assert!(night.edge.refused("handshake-queue-full") > 0.0);
    night.raises("they say nothing at all", "accept-queue");
    night.raises("they say nothing at all", "accept-overflow");
    assert!(night.edge.metric("sluss_kernel_listen_overflows_total", &[]) > 0.0);
    for alarm in ["accept-queue", "handshakes-refused", "accept-overflow"] {
        night.clears(alarm);
    }
    night.ends();
}

#[test]
fn malformed_heads_reach_the_visitor_repaired_and_the_operator_as_findings() {
    let night = Night::of("headers");
    let begun = night.tells("legacy's program sends headers");
    for rule in ["field-no-colon", "field-name-trailing-space", "obs-fold"] {
        let found = night.tells(&format!("finding: response of legacy, {rule}, repair"));
        assert!(found <= begun + 10, "{rule} after {} s", found - begun);
    }
    let findings = night.edge.admin_json("/api/findings");
    let shadow = |row: &serde_json::Value| row["shadow_refused"].as_u64() > Some(0);
    assert!(
        findings.as_array().unwrap().iter().any(shadow),
        "the shadow profile tells: {findings}"
    );
    let site = "site=\"legacy\"";
    assert!(night.edge.metric("sluss_header_findings_total", &[site]) > 0.0);
    assert!(night.edge.metric("sluss_requests_total", &[site, "code=\"200\""]) > 0.0);
    assert_eq!(night.edge.metric("sluss_requests_total", &[site, "code=\"502\""]), 0.0);
    night.ends();
}

#[test]
fn a_silent_server_is_told_by_its_queue_while_the_other_sites_go_on() {
    let night = Night::of("silence");
    night.raises("accepts requests and answers none", "queue-age");
    let answered = |site: &str| {
        night.edge.metric("sluss_requests_total", &[&format!("site=\"{site}\""), "code=\"200\""])
    };
    let (blog, shop) = (answered("blog"), answered("shop"));
    let ended = night.tells("shop's server answers again");
    let begun = night.tells("accepts requests and answers none");
    assert!(night.tells("ALARM queue-stalled (shop)") <= ended);
    assert!(night.tells("ALARM requests-refused") <= begun + 12);
    assert!(night.tells("requests refused in ten seconds, all at shop") <= ended);
    assert!(answered("blog") > blog, "the blog goes on");
    assert!(shop > 0.0 && night.edge.refused("request-deadline") > 0.0);
    for alarm in ["queue-age", "queue-stalled", "requests-refused"] {
        night.clears(alarm);
    }
    assert!(answered("shop") > shop, "the shop is back");
    night.ends();
}

#[test]
fn a_restart_is_waited_out_and_a_long_absence_is_explained() {
    let night = Night::of("failover");
    night.raises("blog's server has gone", "upstreams-down");
    night.tells("those who waited are answered");
    let refused = || night.edge.metric("sluss_refused_total", &["site=\"blog\""]);
    assert_eq!(refused(), 0.0, "nobody saw the restart");
    night.clears("upstreams-down");
    night.tells("it has gone again");
    night.tells("told to come back");
    assert!(night.edge.tells_down("blog"), "figures, rows and commands agree with the alarm");
    assert!(refused() > 0.0);
    night.tells("the cause is gone");
    night.ends();
}
