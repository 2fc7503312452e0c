//! Prometheus' text format (version 0.0.4): families with help and type, samples with labels.

use std::fmt::Write;

use super::histogram::Times;

/// The text under construction.
#[derive(Default)]
pub(super) struct Text {
    out: String,
    family: &'static str,
    series: usize,
}

/// The type of a family.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Label names with their values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    /// Begins a family; it is declared even if no sample follows.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample of the family.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Into<Number>) {
        self.out.push_str(self.family);
        self.labels(labels, None);
        self.value(value.into());
    }

    /// A whole histogram of the family; `bounds` (nanoseconds) are some or all of its own.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        labels: Labels<'_>,
        times: &Times<N>,
        bounds: &[u64],
    ) {
        let (mut count, mut at) = (0, 0);
        for bound in bounds {
            while Times::<N>::bounds().get(at).is_some_and(|own| own <= bound) {
                count += times.buckets[at];
                at += 1;
            }
            let bound = format!("{}", *bound as f64 / 1e9);
            self.part("_bucket", labels, Some(&bound), Number::Whole(count));
        }
        let all = times.count();
        self.part("_bucket", labels, Some("+Inf"), Number::Whole(all));
        let sum = times.sum_nanoseconds as f64 / 1e9;
        self.part("_sum", labels, None, Number::Real(sum));
        self.part("_count", labels, None, Number::Whole(all));
    }

    /// The text, and how many series stand in it.
    pub(super) fn finish(self) -> (String, usize) {
        (self.out, self.series)
    }

    fn part(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: Number) {
        self.out.push_str(self.family);
        self.out.push_str(suffix);
        self.labels(labels, bound);
        self.value(value);
    }

    fn labels(&mut self, labels: Labels<'_>, bound: Option<&str>) {
        let mut first = true;
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.out.push(if first { '{' } else { ',' });
            first = false;
            self.out.push_str(name);
            self.out.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if !first {
            self.out.push('}');
        }
    }

    fn value(&mut self, value: Number) {
        self.series += 1;
        let _ = match value {
            Number::Whole(whole) => writeln!(self.out, " {whole}"),
            Number::Signed(signed) => writeln!(self.out, " {signed}"),
            Number::Real(real) => writeln!(self.out, " {real}"),
        };
    }
}

/// A sample's value.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Signed(i64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number::Whole(value)
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Number {
        Number::Signed(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Real(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_s_value_cannot_end_the_line() {
        let mut text = Text::default();
        text.family("m", Kind::Gauge, "Help.");
        text.sample(&[("a", "x\"y\\z\n"), ("b", "")], 1_u64);
        let expected = "# HELP m Help.\n# TYPE m gauge\nm{a=\"x\\\"y\\\\z\\n\",b=\"\"} 1\n";
        assert_eq!(text.finish(), (expected.to_owned(), 1));
    }
}
