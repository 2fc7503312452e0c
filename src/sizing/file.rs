//! How `queues.toml` looks: each figure below its arithmetic and its reason.

use std::fmt::Write;

use super::{Machine, Sizing};

/// The widest line of a comment.
const COLUMNS: usize = 96;

impl Sizing {
    /// The file's text. The keys are those that `config` reads.
    pub fn render(&self, machine: &Machine) -> String {
        let mut text = String::new();
        comment(
            &mut text,
            "Written by `sluss size`; what the main file says goes before it. Make it anew when \
             the machine, sluss' version or the certificates' key types change: the edge warns \
             when it starts on another machine.",
        );
        for note in &self.notes {
            comment(&mut text, &format!("{note}."));
        }
        text.push_str("\n[machine]\n");
        if let Some(cores) = machine.cores {
            line(&mut text, "cores", &cores.to_string());
        }
        let texts = [
            ("cpu", &machine.cpu),
            ("version", &machine.version),
            ("key_types", &machine.key_types),
            ("measured", &machine.measured),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                line(&mut text, key, &toml::Value::from(value.as_str()).to_string());
            }
        }
        let mut section = "";
        for figure in &self.figures {
            if section != figure.section {
                section = figure.section;
                text.push_str(&format!("\n[{section}]\n"));
            }
            comment(&mut text, &format!("{}.", figure.arithmetic));
            comment(&mut text, &format!("Why: {}.", figure.reason));
            line(&mut text, figure.key, &figure.value.to_string());
        }
        text
    }

    /// The arithmetic for people: `sluss size --explain`.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text.push_str(&format!("{note}\n"));
        }
        for figure in &self.figures {
            let name = format!("{}.{}", figure.section, figure.key);
            line(&mut text, &name, &figure.value.to_string());
            text.push_str(&format!("    {}\n    {}\n", figure.arithmetic, figure.reason));
        }
        for advice in &self.advice {
            text.push_str(&format!("! {advice}\n"));
        }
        text
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{key} = {value}");
}

/// Breaks a sentence into comment lines.
fn comment(text: &mut String, sentence: &str) {
    let mut column = COLUMNS;
    for word in sentence.split_whitespace() {
        if column + 1 + word.len() > COLUMNS {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push('#');
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + word.len();
    }
    text.push('\n');
}
