//! Tests with a corpus of real and documented texts, of error messages, and of properties for any text.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// The outcome of a locator for one process, as text.
fn answer(proc: &Path, locator: Locator) -> String {
    match locate(proc, PID, locator) {
        Ok(None) => "none".to_owned(),
        Ok(Some(Container { id, pod_uid: None })) => format!("container {id}"),
        Ok(Some(Container { id, pod_uid: Some(uid) })) => format!("container {id} pod {uid}"),
        Err(refusal) => format!("refused {refusal}"),
    }
}

/// A `/proc` with one process, which has these files.
fn proc_of(files: &[(&str, &[u8])]) -> TempDir {
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join(PID.to_string());
    fs::create_dir(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    proc
}

fn proc_with(cgroup: &str, mountinfo: &str) -> TempDir {
    proc_of(&[("cgroup", cgroup.as_bytes()), ("mountinfo", mountinfo.as_bytes())])
}

/// One block of `expected.txt`.
#[derive(Default)]
struct Shape<'a> {
    name: &'a str,
    platform: &'a str,
    expected: String,
    legacy: Option<&'a str>,
    why: &'a str,
}

fn shape(block: &str) -> Shape<'_> {
    let mut shape = Shape::default();
    for line in block.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("shape", name) => shape.name = name,
            ("platform", platform) => shape.platform = platform,
            ("legacy", answer) => shape.legacy = Some(answer),
            ("why", why) => shape.why = why,
            ("none", _) => shape.expected = line.to_owned(),
            ("container" | "refused", _) => shape.expected = line.replacen(": ", " ", 1),
            ("pod", uid) => shape.expected += &format!(" pod {uid}"),
            _ => panic!("{line}"),
        }
    }
    shape
}

#[test]
fn corpus() {
    let folder = Path::new(CORPUS);
    let table = fs::read_to_string(folder.join("expected.txt")).unwrap();
    let mut files: BTreeSet<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.remove("expected.txt");
    let mut from_elsewhere = 0;
    for shape in table.split("\n\n").map(shape).filter(|shape| !shape.name.is_empty()) {
        println!("{}: {} -> {} ({})", shape.name, shape.platform, shape.expected, shape.why);
        let text = |kind| Some((kind, fs::read(folder.join(format!("{}.{kind}", shape.name))).ok()?));
        let texts: Vec<_> = ["cgroup", "mountinfo"].into_iter().filter_map(text).collect();
        let proc = proc_of(&texts.iter().map(|(kind, text)| (*kind, text.as_slice())).collect::<Vec<_>>());
        assert_eq!(answer(proc.path(), Locator::Segments), shape.expected, "{}", shape.name);
        let legacy = shape.legacy.unwrap_or(&shape.expected);
        assert_eq!(answer(proc.path(), Locator::Legacy), legacy, "{}, legacy", shape.name);
        assert!(!texts.is_empty(), "{}", shape.name);
        for (kind, _) in texts {
            files.remove(&format!("{}.{kind}", shape.name));
        }
        from_elsewhere += usize::from(!shape.platform.starts_with("lab: "));
    }
    assert!(files.is_empty(), "without a shape: {files:?}");
    assert!(from_elsewhere >= 20);
}

#[test]
fn neither_file() {
    let proc = tempfile::tempdir().unwrap();
    for locator in [Locator::Segments, Locator::Legacy] {
        assert_eq!(locate(proc.path(), PID, locator).unwrap(), None);
    }
}

#[test]
fn a_file_that_cannot_be_read() {
    for name in ["cgroup", "mountinfo"] {
        let proc = proc_of(&[]);
        let path = proc.path().join(PID.to_string()).join(name);
        fs::create_dir(&path).unwrap();
        let refusal = locate(proc.path(), PID, Locator::Segments).unwrap_err();
        assert!(matches!(&refusal, ContainerError::Read { path: named, .. } if *named == path), "{refusal}");
    }
}

#[test]
fn texts_without_end_are_refused() {
    let line = format!("868 867 0:38 / {} ro - tmpfs tmpfs rw\n", "x".repeat(4096));
    let mountinfo = line.repeat(usize::try_from(MOUNTINFO_LIMIT).unwrap() / line.len() + 1);
    let proc = proc_with("0::/\n", &mountinfo);
    let refusal = locate(proc.path(), PID, Locator::Segments).unwrap_err();
    assert!(matches!(refusal, ContainerError::TooLarge { limit: MOUNTINFO_LIMIT, .. }), "{refusal}");
    let endless = "x".repeat(usize::try_from(CGROUP_LIMIT).unwrap() + 1);
    let refusal = locate(proc_with(&endless, "").path(), PID, Locator::Legacy).unwrap_err();
    assert!(matches!(refusal, ContainerError::TooLarge { limit: CGROUP_LIMIT, .. }), "{refusal}");
}

#[test]
fn a_text_of_exactly_the_limit() {
    let line = "0::/";
    let text = line.to_owned() + &"x".repeat(usize::try_from(CGROUP_LIMIT).unwrap() - line.len());
    assert_eq!(answer(proc_with(&text, "").path(), Locator::Segments), "none");
}

#[test]
fn a_hostile_line_is_cut_in_messages() {
    let refusal = from_cgroup(&"\u{1b}[2J".repeat(10_000)).unwrap_err().to_string();
    assert!(refusal.len() < 4096 && !refusal.contains('\u{1b}'), "{refusal}");
    let refusal = from_mountinfo(&"x".repeat(10_000)).unwrap_err().to_string();
    assert!(refusal.len() < 1024, "{refusal}");
}

#[test]
fn one_container_in_all_lines_and_none_at_the_end() {
    let text = format!("2:memory:/docker/{ONE}\n1:cpu:/docker/{ONE}\n0::/\n");
    assert_eq!(from_cgroup(&text).unwrap(), Some(Container { id: ONE.to_owned(), pod_uid: None }));
}

#[test]
fn only_whole_words_are_ids() {
    for path in
        [format!("/a{ONE}"), format!("/{ONE}_"), format!("/{}", &ONE[1..]), format!("/g{}", &ONE[1..])]
    {
        assert_eq!(from_cgroup(&format!("0::{path}\n")).unwrap(), None, "{path}");
    }
    let uid_of = |path: &str| from_cgroup(&format!("0::{path}/{ONE}\n")).unwrap().unwrap().pod_uid;
    for path in
        [format!("/kubepod{POD}"), format!("/pod{POD}0"), format!("/pod{POD}_"), format!("/pod{}", &POD[1..])]
    {
        assert_eq!(uid_of(&path), None, "{path}");
    }
    assert_eq!(uid_of(&format!("/kubepods-pod{}.slice", POD.replace('-', "_"))).as_deref(), Some(POD));
}

#[test]
fn an_id_keeps_its_spelling() {
    let upper = ONE.to_uppercase();
    assert_eq!(from_cgroup(&format!("0::/docker/{upper}\n")).unwrap().unwrap().id, upper);
}

/// Docker has no pods: a path with a pod does not overrule one without.
#[test]
fn ids_alone() {
    let pod = format!("1:cpu:/docker/{ONE}/kubepods/pod{POD}/{OTHER}\n");
    assert_eq!(container_id(&pod).unwrap().as_deref(), Some(OTHER));
    let kind = format!("{pod}0::/docker/{ONE}/system.slice\n");
    assert_eq!(from_cgroup(&kind).unwrap().unwrap().id, OTHER);
    assert!(matches!(container_id(&kind), Err(ContainerError::ContainerIds(..))));
    let mount = format!("868 867 0:38 /docker/{ONE} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    let proc = proc_with("0::/\n", &mount);
    let found = locate(proc.path(), PID, Locator::Ids).unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.pod_uid), (ONE, None));
}

/// SPIRE's expressions find `pod`, a UID whose groups any punctuation may separate, and an ID at the end.
#[test]
fn legacy_patterns() {
    let found = |path: &str| from_cgroup_legacy(&format!("0::{path}\n")).unwrap().map(|c| c.pod_uid);
    let bare = POD.replace('-', "");
    assert_eq!(found(&format!("/pod{}/{ONE}", POD.replace('-', "."))), Some(Some(POD.to_owned())));
    assert_eq!(found(&format!("/pod{}/{ONE}", POD.replace('-', "+"))), Some(Some(POD.replace('-', "+"))));
    assert_eq!(found(&format!("/pod{bare}/x-{ONE}.scope")), Some(Some(bare.clone())));
    assert_eq!(found(&format!("/pod{POD}//{ONE}")), None, "an empty segment");
    assert_eq!(found(&format!("/pod{POD}{ONE}")), None, "nothing between");
    assert_eq!(found(&format!("pod{POD}/{ONE}")), None, "nothing before");
    assert_eq!(found(&format!("/pod{POD}/{ONE}.scope.scope")), None, "one suffix is trimmed");
    assert_eq!(found(&format!("/../crio-{ONE}.scope")), Some(None));
    assert_eq!(found(&format!("/../{ONE}.scope")), None);
    assert_eq!(
        found(&format!("/pod{POD}/crio-{ONE}")),
        Some(Some(POD.to_owned())),
        "the first pattern alone"
    );
    assert_eq!(found(&format!("/pod{bare}/crio-{ONE}")), None, "both patterns");
}

/// Paths made of parts that locators look for, and parts that look almost like them.
fn path() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        ONE,
        OTHER,
        "pod",
        POD,
        "11111111_2222_4333_8444_555555555555",
        "pod11111111222243338444555555555555",
        "kubepods",
        "kubepods-besteffort-pod",
        "crio",
        "cri-containerd-",
        "docker",
        "..",
        ".scope",
        ".slice",
        ":",
        "_",
        "ä",
        "",
    ]);
    let piece = (word, prop::sample::select(vec!["", "/", "/", "-", ".", "_"]));
    prop::collection::vec(piece, 0..12)
        .prop_map(|pieces| pieces.into_iter().fold("/".to_owned(), |path, (word, end)| path + word + end))
}

fn cgroup_text() -> impl Strategy<Value = String> {
    prop::collection::vec(path(), 0..4)
        .prop_map(|paths| paths.iter().enumerate().map(|(id, path)| format!("{id}:x:{path}\n")).collect())
}

fn is_in(container: &Container, text: &str) -> bool {
    let digits = container.id.len() == 64 && container.id.bytes().all(|b| b.is_ascii_hexdigit());
    let pod = container
        .pod_uid
        .as_ref()
        .is_none_or(|uid| uid.len() == 36 && text.replace('_', "-").contains(&format!("pod{uid}")));
    digits && text.contains(&container.id) && pod
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(\\PC|\n|:|/)*") {
        let _ = (from_cgroup(&text), from_mountinfo(&text), from_cgroup_legacy(&text));
    }

    #[test]
    fn what_is_found_is_in_the_text(text in cgroup_text()) {
        if let Ok(Some(found)) = from_cgroup(&text) {
            prop_assert!(is_in(&found, &text), "{found:?}");
        }
        if let Ok(Some(found)) = from_cgroup_legacy(&text) {
            prop_assert!(text.contains(&found.id));
        }
    }

    #[test]
    fn a_line_without_an_id_changes_nothing(text in cgroup_text(), at in 0_usize..5) {
        let mut lines: Vec<_> = text.lines().collect();
        lines.insert(at.min(lines.len()), "7:pids:/system.slice/containerd.service");
        let with = from_cgroup(&lines.join("\n")).map_err(|e| e.to_string());
        prop_assert_eq!(from_cgroup(&text).map_err(|e| e.to_string()), with);
    }

    #[test]
    fn mountinfo_never_overrules(text in cgroup_text(), root in path()) {
        let root = root.replace(' ', "");
        let mounts = format!("868 867 0:38 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
        let located = locate(proc_with(&text, &mounts).path(), PID, Locator::Segments);
        match from_cgroup(&text) {
            Ok(None) => prop_assert_eq!(located.unwrap(), from_mountinfo(&mounts).unwrap()),
            Ok(found) => prop_assert_eq!(located.unwrap(), found),
            Err(refusal) => prop_assert_eq!(located.unwrap_err().to_string(), refusal.to_string()),
        }
    }

    #[test]
    fn cgroup_mounts_are_read_as_paths(root in path()) {
        let mounts = format!("868 867 0:38 {root} /sys/fs/cgroup ro - cgroup cgroup  rw,memory\n");
        prop_assert_eq!(from_mountinfo(&mounts).unwrap(), from_cgroup(&format!("0::{root}")).unwrap());
    }
}

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/containers");
const PID: i32 = 7;
const ONE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const POD: &str = "11111111-2222-4333-8444-555555555555";
