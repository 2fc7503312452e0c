//! Sizes from capacities whose arithmetic can be done on paper.

use super::*;

fn rate(per_second: f64) -> Measured {
    Measured { per_second, spread: 0.04, runs: 3, at_least: false }
}

fn capacity() -> Capacity {
    Capacity {
        threads: 2,
        full_handshakes: vec![
            KeyRate::measured(KeyType::EcdsaP256, rate(6_000.0)),
            KeyRate::measured(KeyType::Rsa(2_048), rate(2_000.0)),
        ],
        resumptions: rate(8_000.0),
        requests_h1: rate(60_000.0),
        requests_h2: rate(50_000.0),
        connection_bytes: 20_000,
    }
}

fn bounds() -> Bounds {
    Bounds {
        threads: 2,
        memory_bytes: 4 << 30,
        descriptors: 65_536,
        somaxconn: 4_096,
        syn_backlog: 4_096,
    }
}

#[track_caller]
fn check(sizing: &Sizing, key: &str, expected: &str) {
    let figure = sizing.figures.iter().find(|figure| figure.key == key).unwrap();
    assert_eq!(figure.value.to_string(), expected, "{}", figure.arithmetic);
}

#[test]
fn each_size_follows_its_formula() {
    let sizing = size(&capacity(), &Goals::default(), &bounds());
    check(&sizing, "backlog", "2048"); // 4,000/s x 0.5 s
    check(&sizing, "max_connections", "32256"); // (65,536 - 1,024) / 2
    check(&sizing, "handshake_concurrency", "1600"); // 1,000/s a thread x (1 s + 600 ms)
    check(&sizing, "handshake_depth", "1600"); // 2,000/s x 80 % x 1 s
    check(&sizing, "handshake_deadline", "\"1s\"");
    check(&sizing, "request_depth", "250"); // 25/s x 10 s
    check(&sizing, "in_flight", "\"auto\"");
    check(&sizing, "age_alarm", "\"2s\"");
    check(&sizing, "full_ecdsa", "333");
    check(&sizing, "full_rsa", "1000");
    check(&sizing, "resumed", "250");
    assert!(sizing.advice.is_empty());
}

#[test]
fn a_goal_that_was_stated_is_told_from_a_default() {
    let usual = Goals::default();
    let goals = Goals {
        burst_per_second: usual.burst_per_second.or_stated(Some(20_000.0)),
        established_share: usual.established_share.or_stated(Some(0.5)),
        slow_site_per_second: usual.slow_site_per_second.or_stated(Some(2.5)),
        memory_share: usual.memory_share.or_stated(None),
        ..usual
    };
    let sizing = size(&capacity(), &goals, &bounds());
    check(&sizing, "backlog", "16384"); // 20,000/s x 0.5 s
    check(&sizing, "handshake_depth", "1000"); // 2,000/s x 50 % x 1 s
    check(&sizing, "request_depth", "25"); // 2.5/s x 10 s
    let text = sizing.explain();
    for part in [
        "20000/s (goal) in a burst x 500ms (default) of stall",
        "50 % (goal) is kept",
        "2.5/s (goal) of requests",
        "4096 MiB x 50 % (default) /",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn without_rsa_the_queue_may_be_deeper() {
    let mut capacity = capacity();
    capacity.full_handshakes.pop();
    let sizing = size(&capacity, &Goals::default(), &bounds());
    check(&sizing, "handshake_depth", "4800");
    assert!(sizing.figures.iter().all(|figure| figure.key != "full_rsa"));
}

#[test]
fn a_longer_key_makes_the_queue_shorter_and_its_signature_tells_by_how_much() {
    let mut capacity = capacity();
    let signatures = [600, 3_600].map(Duration::from_micros);
    let measured = capacity.full_handshakes[1];
    let longer = KeyRate::computed(KeyType::Rsa(4_096), &measured, 2, signatures);
    // 2 / (2 / 2,000 s - 600 us + 3,600 us)
    assert!((longer.rate.per_second - 500.0).abs() < 1e-6, "{longer}");
    let told = "RSA-4096 500/s, computed: 2 / (2 / 2000 s of RSA-2048 - its signature's 600 µs + \
                3600 µs)";
    assert_eq!(longer.to_string(), told);
    capacity.full_handshakes.push(longer);
    let sizing = size(&capacity, &Goals::default(), &bounds());
    check(&sizing, "handshake_depth", "400"); // 500/s x 80 % x 1 s
    check(&sizing, "full_rsa", "4000");
    check(&sizing, "full_ecdsa", "333");
    assert!(sizing.notes[0].contains("ECDSA P-256 6000/s, measured (3 runs, spread 4.0 %); RSA-"));
    // Noise cannot make a handshake cheaper than its signature.
    let noisy = [Duration::from_secs(1), Duration::from_millis(10)];
    let noisy = KeyRate::computed(KeyType::Rsa(3_072), &measured, 2, noisy);
    assert!((noisy.rate.per_second - 200.0).abs() < 1e-6, "{noisy}");
}

#[test]
fn half_of_the_threads_measured_size_all_of_them() {
    let mut capacity = capacity();
    capacity.threads = 1;
    let sizing = size(&capacity, &Goals::default(), &bounds());
    check(&sizing, "handshake_depth", "3200"); // 2 x 2,000/s x 80 % x 1 s
    check(&sizing, "handshake_concurrency", "3200"); // 2,000/s a thread x 1.6 s
    check(&sizing, "full_rsa", "500");
}

#[test]
fn a_small_machine_is_bounded_by_its_memory() {
    let small = Bounds { memory_bytes: 512 << 20, ..bounds() };
    check(&size(&capacity(), &Goals::default(), &small), "max_connections", "13421");
}

#[test]
fn bounds_of_the_kernel_come_with_the_command_that_raises_them() {
    let tight = Bounds { somaxconn: 128, syn_backlog: 512, descriptors: 1_024, ..bounds() };
    let advice = size(&capacity(), &Goals::default(), &tight).advice.join("\n");
    for expected in ["somaxconn=2048", "tcp_max_syn_backlog=2048", "LimitNOFILE=65536"] {
        assert!(advice.contains(expected), "{advice}");
    }
}

#[test]
fn another_machine_is_noticed_and_what_is_unknown_is_not_held_against_it() {
    let machine = Machine {
        cores: Some(2),
        cpu: cpu_model("processor\t: 0\nmodel name\t: EPYC 7B13\n"),
        ..Machine::default()
    };
    assert_eq!(machine.cpu.as_deref(), Some("EPYC 7B13"));
    assert!(machine.differences(&machine).is_empty());
    assert!(machine.differences(&Machine::default()).is_empty());
    let measured = Machine { cores: Some(4), ..machine.clone() };
    assert_eq!(machine.differences(&measured), ["cores: measured 4, now 2"]);
}

#[test]
fn the_file_shows_the_arithmetic_beside_each_figure() {
    let machine = Machine {
        cores: Some(2),
        cpu: Some("a \"quoted\" model".to_owned()),
        measured: Some("2026-11-03".to_owned()),
        ..Machine::default()
    };
    let sizing = size(&capacity(), &Goals::default(), &bounds());
    let text = sizing.render(&machine);
    assert!(text.contains("# 2 threads x 1000 RSA-2048 handshakes/s x 80 % x 1s = 1600"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 96));
    let read: toml::Table = text.parse().unwrap();
    assert_eq!(read["machine"]["cpu"].as_str(), Some("a \"quoted\" model"));
    assert_eq!(read["queues"]["handshake_depth"].as_integer(), Some(1_600));
    assert!(sizing.explain().contains("queues.handshake_depth = 1600\n"));
}
