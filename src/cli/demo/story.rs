//! An incident as it is told: what happens, what visitors meet, which alarms come and go.
//!
//! The story knows of the edge what any operator knows: it asks the admin API.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::incident::{Incident, Turn};
use super::origins::Origin;
use super::visitors::{Tally, Visitors};
use crate::admin::{FindingRow, Status};
use crate::alarms::Standing;
use crate::cli::client::Edge;
use crate::cli::table::milliseconds;

/// From one look at the edge to the next.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// From one line about the visitors to the next.
const VISITORS_EVERY: Duration = Duration::from_secs(4);

/// So long after the last act visitors are still told of: then there is nothing new.
const AFTERMATH: Duration = Duration::from_secs(12);

/// After the last act: alarms about events stand for a minute after the last one.
const EPILOGUE_MAX: Duration = Duration::from_secs(100);

/// Everybody who plays a part.
pub struct Stage {
    /// The running edge.
    pub edge: Edge,
    /// The site servers.
    pub origins: [Origin; 3],
    /// Those who come.
    pub visitors: Visitors,
}

/// Plays the incident to its end.
pub fn play(incident: Incident, stage: Stage) {
    // The edge serves a moment after it has greeted.
    while stage.edge.get("/readyz").is_err() {
        std::thread::sleep(LOOK_EVERY);
    }
    let mut story = Story {
        stage,
        begun: Instant::now(),
        visitors_told: Instant::now(),
        visitors_until: None,
        standing: BTreeMap::new(),
        findings: 0,
    };
    for act in incident.acts() {
        story.tell(act.says);
        match act.turn {
            Turn::Nothing => {}
            Turn::Flood(flood) => story.stage.visitors.flood(flood),
            Turn::Trouble(site, trouble) => {
                story.stage.origins[site].trouble.send_replace(trouble);
            }
        }
        let until = Instant::now() + act.lasts();
        while Instant::now() < until {
            story.look();
        }
    }
    story.visitors_until = Some(Instant::now() + AFTERMATH);
    let until = Instant::now() + EPILOGUE_MAX;
    while story.look() == Calm::NotYet && Instant::now() < until {}
    story.tell("over. The edge serves on, without visitors; Ctrl-C ends the demo.");
}

struct Story {
    stage: Stage,
    begun: Instant,
    visitors_told: Instant,
    visitors_until: Option<Instant>,
    /// Alarms that stand, by label and subject.
    standing: BTreeMap<(String, String), Instant>,
    /// Rows of findings that were told.
    findings: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Calm {
    NotYet,
    Yes,
}

impl Story {
    /// One look at the edge, and what is new is told; calm is when no alarm stands.
    fn look(&mut self) -> Calm {
        std::thread::sleep(LOOK_EVERY);
        let is_over = self.visitors_until.is_some_and(|until| Instant::now() > until);
        if !is_over && self.visitors_told.elapsed() >= VISITORS_EVERY {
            self.visitors_told = Instant::now();
            let words = visitors(&self.stage.visitors.tallies());
            self.tell(&words);
        }
        // An edge that does not answer has told why, or is being ended.
        let Ok(status) = self.stage.edge.json::<Status>("/api/status") else {
            return Calm::NotYet;
        };
        self.alarms(&status.alarms);
        if let Ok(rows) = self.stage.edge.json::<Vec<FindingRow>>("/api/findings") {
            for row in rows.iter().skip(self.findings) {
                self.tell(&finding(row));
            }
            self.findings = self.findings.max(rows.len());
        }
        if self.standing.is_empty() { Calm::Yes } else { Calm::NotYet }
    }

    fn alarms(&mut self, alarms: &[Standing]) {
        for alarm in alarms {
            let key = (alarm.alarm.clone(), alarm.subject.clone());
            if self.standing.contains_key(&key) {
                continue;
            }
            self.standing.insert(key, Instant::now());
            let subject = named(&alarm.subject);
            self.tell(&format!("ALARM {}{subject}: {}", alarm.alarm, alarm.detail));
            println!("          for visitors: {}", alarm.meaning);
            println!("          what to do: {}", alarm.remedy);
        }
        let stands = |label: &str, subject: &str| {
            alarms.iter().any(|alarm| alarm.alarm == label && alarm.subject == subject)
        };
        let over = |(label, subject): &&(String, String)| !stands(label, subject);
        let over: Vec<_> = self.standing.keys().filter(over).cloned().collect();
        for key in over {
            let Some(since) = self.standing.remove(&key) else { continue };
            let (label, subject) = (&key.0, named(&key.1));
            let stood = since.elapsed().as_secs();
            self.tell(&format!("cleared {label}{subject}, after {stood} s"));
        }
    }

    fn tell(&self, words: &str) {
        println!("{:>5} s   {words}", self.begun.elapsed().as_secs());
    }
}

fn named(subject: &str) -> String {
    if subject.is_empty() { String::new() } else { format!(" ({subject})") }
}

fn finding(row: &FindingRow) -> String {
    let excerpt = row.examples.first().map_or("", |example| &example.excerpt);
    let shadow = if row.shadow_refused > 0 { "; profile reject would refuse" } else { "" };
    let FindingRow { site, direction, rule, action, .. } = row;
    format!("finding: {direction} of {site}, {rule}, {action}{shadow}: {excerpt}")
}

/// One line about all sites, in the order of the demo's sites.
fn visitors(tallies: &[Tally]) -> String {
    let mut text = String::from("visitors:");
    for ((name, _), tally) in super::SITES.iter().zip(tallies) {
        let Tally { came, answered, refused, lost, waiting, slowest } = tally;
        let _ = write!(text, " {name} {came} came, {answered} answered");
        if *answered > 0 {
            let slowest = milliseconds(slowest.as_secs_f64() * 1_000.0);
            let _ = write!(text, " within {slowest}");
        }
        for (count, what) in [(refused, "told to come back"), (lost, "lost"), (waiting, "wait")] {
            if *count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text.push(';');
    }
    text.pop();
    text
}
