//! What is packaged: the units are free of mistakes and as closed as the docs say, the container's image is built
//! as it should be. What a package does when it is installed is `packaging/check`'s affair.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Each unit with the exposure that `systemd-analyze security` of Debian 12 gives it, times ten.
/// docs/packaging.md has the same numbers. Less is better.
const UNITS: [(&str, u32); 2] = [("pikepole-directory", 12), ("pikepole-agent", 22)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn unit(name: &str) -> String {
    read(&format!("packaging/systemd/{name}.service"))
}

fn analyze(arguments: &[&str], unit: &Path) -> String {
    let mut command = Command::new("systemd-analyze");
    let out = command.args(arguments).arg(unit).env("SYSTEMD_COLORS", "0").output();
    let out = out.expect("systemd-analyze is there: ./scripts/test --setup installs it");
    [out.stdout, out.stderr].iter().map(|part| String::from_utf8_lossy(part)).collect()
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    // It looks for the program, which is not installed here. It exits with 0 whatever it finds.
    let folder = TempDir::new().unwrap();
    let verify = |name: &str, text: &str| {
        let path = folder.path().join(format!("{name}.service"));
        fs::write(&path, text.replace("=/usr/bin/pikepole ", "=/bin/true ")).unwrap();
        analyze(&["verify", "--man=no"], &path)
    };
    for (name, _) in UNITS {
        let text = unit(name);
        assert_eq!(verify(name, &text), "", "{name}");
        let broken = text.replace("ProtectSystem=", "ProtectSytem=");
        assert!(verify(name, &broken).contains("ProtectSytem"), "{name}: a mistake is found");
    }
}

#[test]
fn the_drop_in_for_a_disk_guard_fits_the_unit_and_opens_no_more_than_the_docs_say() {
    let (unit, drop_in) = (unit("pikepole-agent"), read("packaging/systemd/disk-guard.conf"));
    let both =
        unit.replace("=/usr/bin/pikepole ", "=/bin/true ").replace("[Install]", &(drop_in + "\n[Install]"));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pikepole-agent.service");
    fs::write(&path, both).unwrap();
    assert_eq!(analyze(&["verify", "--man=no"], &path), "");
    let said = analyze(&["security", "--offline=true", "--no-pager"], &path);
    let score =
        said.split("level for pikepole-agent.service: ").nth(1).and_then(|rest| rest.split(' ').next());
    let score = score.unwrap_or_else(|| panic!("{said}"));
    assert!(
        read("docs/packaging.md").contains(&format!("The exposure is {score} with it.")),
        "it is {score}"
    );
}

#[test]
fn the_units_are_as_closed_as_the_docs_say() {
    let docs = read("docs/packaging.md");
    for (name, bound) in UNITS {
        let path = root().join(format!("packaging/systemd/{name}.service"));
        let said = analyze(&["security", "--offline=true", "--no-pager"], &path);
        let score = said.split(&format!("level for {name}.service: ")).nth(1);
        let score = score.and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{said}"));
        let score: f64 = score.parse().unwrap();
        let bound = f64::from(bound) / 10.0;
        assert!(score <= bound, "{name} is exposed {score}, above {bound}:\n{said}");
        assert!(
            docs.contains(&format!("`{name}` | {bound:.1} |")),
            "docs/packaging.md gives another exposure"
        );
    }
}

#[test]
fn a_unit_checks_its_configuration_and_comes_back() {
    for (name, _) in UNITS {
        let (text, verb) = (unit(name), name.trim_start_matches("pikepole-"));
        let start = format!("/usr/bin/pikepole {verb} -c /etc/pikepole/{verb}.toml");
        for line in [
            format!("ConditionPathExists=/etc/pikepole/{verb}.toml"),
            // A template that fails does not keep an agent from its other work.
            format!("ExecStartPre={}{start} --check", if verb == "agent" { "-" } else { "" }),
            format!("ExecStart={start}"),
            format!("StateDirectory=pikepole/{verb}"),
            "Restart=always".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{name} has no {line}");
        }
        let example = read(&format!("packaging/etc/{verb}.toml.example"));
        assert!(example.contains(&format!("\"/var/lib/pikepole/{verb}\"")), "{name}: another state folder");
    }
}

/// The instructions of a Dockerfile, with their continued lines.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|l| !l.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let words = joined.lines().filter_map(|l| l.trim().split_once(' '));
    words.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

#[test]
fn the_image_is_small_and_not_root() {
    let all = instructions(&read("Dockerfile"));
    let of = |name: &str| all.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    let known =
        ["FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD"];
    for (name, _) in &all {
        assert!(known.contains(&name.as_str()), "{name} is not expected");
    }
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.split("channel = \"").nth(1).unwrap().split('"').next().unwrap();
    let stages = of("FROM");
    assert_eq!(stages[0], format!("rust:{version}-slim-bookworm AS build"), "the compiler of the workspace");
    assert_eq!(stages[1..], ["debian:bookworm-slim"], "what runs has no compiler");
    assert_eq!(of("USER"), ["10001:10001"], "a number that is not root's");
    let user = all.iter().position(|(name, _)| name == "USER").unwrap();
    assert!(all[user..].iter().all(|(name, _)| name != "RUN" && name != "COPY"));
    assert_eq!(of("EXPOSE"), ["8044"]);
    assert!(of("COPY").iter().any(|c| c.starts_with("--from=build /src/target/release/pikepole ")));
    let mut exec = [of("ENTRYPOINT"), of("CMD"), of("VOLUME")].concat();
    exec.push(of("HEALTHCHECK")[0].split_once("CMD ").unwrap().1);
    for form in exec {
        let parsed: Result<Vec<String>, _> = serde_json::from_str(form);
        assert!(parsed.is_ok(), "not in exec form: {form}");
    }
}
