//! Everything that was shown of an edge: with the figures it had, with the new ones, and what it does
//! with a site that is silent. Pure.

use serde_json::{Value, json};

use super::prove::{self, Promise, Row};
use super::silence::{Heard, Silence};
use crate::sizing::Sizing;

/// The proof.
pub struct Proof {
    /// What the figures promise to new visitors.
    pub promise: Promise,
    /// The edge with the figures it had.
    pub before: Vec<Row>,
    /// The edge with the new ones.
    pub after: Vec<Row>,
    /// What they promise to a site's requests.
    pub silence: Silence,
    /// The same with a site whose endpoint is silent; nothing where it cannot be shown.
    pub heard: Option<Heard>,
}

impl Proof {
    /// Every bound that does not hold.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = prove::judge(&self.promise, &self.after);
        if let Some(heard) = &self.heard {
            broken.extend(self.silence.judge(&self.promise.request, heard));
        }
        broken
    }

    /// What is proven, where no bound broke: for the file's head.
    pub fn notes(&self) -> [String; 2] {
        [prove::proven(&self.promise, &self.after), self.told()]
    }

    /// What became of the silent site's visitors.
    pub fn told(&self) -> String {
        match &self.heard {
            Some(heard) => self.silence.told(heard),
            None => {
                let why = self.silence.hindrance().unwrap_or_else(|| "it was not asked".to_owned());
                format!("Not proven with a silent upstream: {why}")
            }
        }
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        json!({
            "before": self.before,
            "after": self.after,
            "silent_upstream": self.heard,
            "proven_to": self.after.iter().map(|row| row.factor).fold(0.0, f64::max),
        })
    }
}

impl Silence {
    /// The queue's sizes: the new ones, where the main file does not have its own depth.
    pub fn of(sizing: &Sizing, own: Option<u64>, deadline: std::time::Duration) -> Silence {
        let figure = sizing.figures.iter().find(|figure| figure.key == "request_depth");
        let depth = figure.and_then(|figure| figure.value.as_count());
        Silence { depth: own.or(depth).unwrap_or_default(), deadline }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::prove::tests::{good, promise};
    use super::super::silence::tests::{SILENCE, good as heard};
    use super::*;

    pub fn proof() -> Proof {
        let alone = Row { wanted: 0.0, factor: 0.0, ..good() };
        let rows = vec![alone, Row { wanted: 1.0, factor: 1.0, ..good() }, good()];
        Proof {
            promise: promise(),
            before: rows.clone(),
            after: rows,
            silence: SILENCE,
            heard: Some(heard()),
        }
    }

    #[test]
    fn both_parts_count_and_what_was_not_shown_is_said() {
        let mut shown = proof();
        assert_eq!(shown.broken(), Vec::<String>::new());
        assert!(shown.notes()[1].contains("308 requests at once: 50 refused as 250 waited"));
        assert_eq!(shown.json()["proven_to"], 2.0);
        shown.after[2].goodput = 1.0;
        shown.heard = Some(Heard { full: 0, ..heard() });
        assert_eq!(shown.broken().len(), 2);
        shown.heard = None;
        shown.silence.depth = 100_000;
        assert_eq!(shown.broken().len(), 1);
        assert!(
            shown.told().starts_with("Not proven with a silent upstream: request_depth 100000")
        );
    }
}
