//! House rules that no lint knows. A fact that is written twice is compared here.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file below `dir` with this ending, build output left out.
fn files(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                files(&path, ending, found);
            }
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

fn all(ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root(), ending, &mut found);
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_module_says_what_it_is() {
    for (name, text) in all(".rs") {
        let is_test_part = name.contains("/tests/") || name.ends_with("tests.rs");
        assert!(text.starts_with("//!") || is_test_part, "{name} does not begin with //!");
        assert!(!name.ends_with("/mod.rs"), "{name}: put foo.rs beside foo/");
    }
}

#[test]
fn files_stay_readable() {
    for (name, text) in all(".rs") {
        let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let limit = if name.contains("tests") { 700 } else { 450 };
        assert!(own.lines().count() <= limit, "{name} has {} lines", own.lines().count());
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
        ["unimple", "mented!"].concat(),
    ];
    for (name, text) in all(".rs").into_iter().chain(all(".md")).chain(all(".js")) {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{name} has a {mark}");
        }
    }
}

#[test]
fn the_toolchain_and_the_manifest_name_one_version() {
    let manifest = read("Cargo.toml");
    let version = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(read("rust-toolchain.toml").contains(&format!("channel = \"{version}.0\"")), "{version}");
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    for (name, text) in all(".md") {
        let folder = root().join(&name).parent().unwrap().to_path_buf();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(folder.join(path).exists(), "{name} links to {link}");
        }
    }
}

#[test]
fn every_dependency_is_shared_by_the_workspace_and_explained() {
    for (name, text) in all("Cargo.toml") {
        if name == "Cargo.toml" {
            continue;
        }
        let own_version = text.lines().find(|l| l.contains("version = \"") && !l.starts_with("version"));
        assert!(own_version.is_none(), "{name} gives a version itself: {own_version:?}");
    }
    let manifest = read("Cargo.toml");
    let dependencies =
        manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for paragraph in dependencies.split("\n\n").filter(|p| !p.trim().is_empty()) {
        assert!(paragraph.trim_start().starts_with('#'), "no reason is given for:\n{paragraph}");
    }
    let defaults = dependencies
        .lines()
        .filter(|l| l.contains("version = "))
        .find(|l| !l.contains("default-features = false"));
    assert!(defaults.is_none(), "default features are on: {defaults:?}");
}
