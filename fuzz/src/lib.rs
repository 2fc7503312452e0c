//! The screening room by itself, from the edge's own sources, and what each target asserts.

#[path = "../../src/names.rs"]
pub mod names;
#[path = "../../src/refusal.rs"]
pub mod refusal;
#[path = "../../src/screen/mod.rs"]
pub mod screen;

use screen::{
    Action, Finding, Policy, PolicySpec, Profile, Reading, Refused, Rule, Scan, Screened,
};

/// What a call came to, comparable.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Partial,
    Complete(Vec<u8>, Vec<Finding>, usize),
    Refused(Vec<Finding>, refusal::Refusal),
}

/// Turns a reading into what can be compared.
pub fn outcome<H>(
    read: Result<Reading<H>, Box<Refused>>,
    text: impl Fn(&H) -> Vec<u8>,
) -> Outcome {
    match read {
        Ok(Reading::Partial(_)) => Outcome::Partial,
        Ok(Reading::Complete { screened: Screened { head, findings }, consumed }) => {
            Outcome::Complete(text(&head), findings, consumed)
        }
        Err(refused) => Outcome::Refused(refused.findings, refused.reason),
    }
}

/// The profile that the first byte chooses; small limits, so that they are reached.
pub fn policy(choice: u8) -> Policy {
    let profile = [Profile::Observe, Profile::Repair, Profile::Reject][usize::from(choice % 3)];
    let (head_bytes_max, fields_max) = if choice & 0x80 == 0 { (64 << 10, 256) } else { (200, 6) };
    let spec = PolicySpec {
        requests: profile,
        responses: profile,
        shadow: Some(Profile::Reject),
        head_bytes_max,
        fields_max,
        ..PolicySpec::default()
    };
    Policy::new(&spec).expect("profiles are never too lax")
}

/// A policy under which a canonical head has nothing left to find.
pub fn thorough() -> Policy {
    let rules = [Rule::FieldValueObsText, Rule::DateInvalid, Rule::ShadowedField];
    let rules = rules.map(|rule| (rule, Action::Repair)).to_vec();
    Policy::new(&PolicySpec { rules, ..PolicySpec::default() }).expect("repair is never too lax")
}

/// The bytes whole and in two pieces come to the same; and what is canonical stays so.
pub fn check(data: &[u8], judge: impl Fn(&[u8], &mut Scan, &Policy) -> Outcome) {
    let [choice, cut, input @ ..] = data else { return };
    let policy = policy(*choice);
    let whole = judge(input, &mut Scan::default(), &policy);
    let mut scan = Scan::default();
    let cut = usize::from(*cut).min(input.len());
    let mut pieces = judge(&input[..cut], &mut scan, &policy);
    if pieces == Outcome::Partial {
        pieces = judge(input, &mut scan, &policy);
    }
    assert_eq!(pieces, whole);
    let thorough = thorough();
    if let Outcome::Complete(head, _, _) = judge(input, &mut Scan::default(), &thorough) {
        let odd_status = head.starts_with(b"HTTP/") && !(b'1'..b'6').contains(&head[9]);
        let again = judge(&head, &mut Scan::default(), &thorough);
        let len = head.len();
        if !odd_status {
            assert_eq!(again, Outcome::Complete(head, Vec::new(), len));
        }
    }
}
