//! What is likely to go wrong with a guard, told when it is configured or started. Blocking; changes nothing.
//!
//! Not mistakes: the agent does the rest of its work all the same, and a folder may come later.

use std::path::{Component, Path};

use super::{place, system_probe};
use crate::config::{Config, Part, Pattern, Policy};

/// Sentences.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let Some(guard) = &config.guard else { return Vec::new() };
    let mut found = Vec::new();
    let probe = system_probe();
    for path in &guard.paths {
        let shown = path.display();
        let barred = || if guard.policy > Policy::Alert { place::barred(path) } else { None };
        match probe(path) {
            Ok(_) => found.extend(barred().map(|why| format!("disk_guard: {shown}: {why}"))),
            Err(error) => found.push(format!("disk_guard: {shown}: cannot be watched: {error}")),
        }
        if guard.policy < Policy::DeleteOldestRotated {
            continue;
        }
        let tails = config.log_path.iter().flat_map(|part| &part.tails);
        let patterns = tails.flat_map(|tail| tail.paths.iter().chain(&tail.rotated));
        if let Some(pattern) = patterns.into_iter().find(|pattern| leads_into(pattern, path)) {
            found.push(format!(
                "disk_guard: {shown}: [[tail]] reads {} there: policy {} takes lines that are not read yet; \
                 \"compress_rotated\" does not",
                pattern.text(),
                guard.policy.as_str()
            ));
        }
    }
    found
}

/// Whether files that fit a pattern are in a folder, or below it.
fn leads_into(pattern: &Pattern, folder: &Path) -> bool {
    let mut parts = pattern.parts().iter();
    let names = folder.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    for name in names {
        let fits = match parts.next() {
            Some(Part::Name(part)) => part == name,
            Some(Part::Glob(glob)) => glob.is_match(name),
            Some(Part::Any) => return true,
            None => false,
        };
        if !fits {
            return false;
        }
    }
    parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_leads_into_the_folders_on_its_way() {
        let pattern = Pattern::parse("/var/log/*/access*.log").unwrap();
        for (folder, leads) in [
            ("/var/log", true),
            ("/var/log/kong", true),
            ("/var/log/kong/access.log", false),
            ("/var/log/kong/deep", false),
            ("/var/lib", false),
            ("/srv", false),
        ] {
            assert_eq!(leads_into(&pattern, Path::new(folder)), leads, "{folder}");
        }
        let deep = Pattern::parse("/var/log/**/access.log").unwrap();
        assert!(leads_into(&deep, Path::new("/var/log/kong/a")) && !leads_into(&deep, Path::new("/var/lib")));
    }

    #[test]
    fn a_guard_that_takes_from_a_tail_or_guards_a_link_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let of = |path: &Path, policy: &str| {
            let text = format!(
                "[directory]\nurls = [\"http://127.0.0.1:1\"]\nfleet = \"f\"\n\
                 [[tail]]\npaths = [\"{}/x.log\"]\n\
                 [disk_guard]\npaths = [{path:?}]\nmin_free = \"1MiB\"\npolicy = \"{policy}\"",
                real.display()
            );
            warnings(&Config::parse(&text, |_| None).unwrap())
        };
        assert_eq!(of(&real, "compress_rotated"), Vec::<String>::new());
        let told = of(&real, "delete_oldest_rotated");
        assert!(told.len() == 1 && told[0].contains("/x.log there"), "{told:?}");
        let told = of(&link, "alert");
        assert!(told.len() == 1 && told[0].contains("it is a link"), "{told:?}");
    }
}
