use proptest::prelude::*;

use super::*;

const ID: &str = "4a5e958aa539ac9cd8fe9a167813d6781550959f5935dc5f13c95b54c2e95200";
const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

fn group(text: &str) -> String {
    let text = text.replace("<id>", ID).replace("<uid>", UID).replace("<_uid>", &UID.replace('-', "_"));
    Place::parse(&text).group(1000)
}

fn v2(path: &str) -> String {
    group(&format!("0::{path}\n"))
}

#[test]
fn pods_by_both_drivers_of_the_kubelet() {
    let pod = format!("pod:{UID}");
    for path in [
        "/kubepods/burstable/pod<uid>/<id>",
        "/kubepods/pod<uid>/<id>",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<_uid>.slice/cri-containerd-<id>.scope",
        "/kubepods.slice/kubepods-pod<_uid>.slice/crio-<id>.scope",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<_uid>.slice/cri-containerd-<id>.scope",
        "/system.slice/containerd.service/kubepods-besteffort-pod<_uid>.slice:cri-containerd:<id>",
        // As an agent sees it that has a cgroup namespace of its own.
        "/../../kubepods-besteffort-pod<_uid>.slice/cri-containerd-<id>.scope",
        "/kubepods/pod<uid>/<id>/made-by-the-container/pod00000000000000000000000000000000",
        "/kubepods/pod<uid> (deleted)",
    ] {
        assert_eq!(v2(path), pod, "{path}");
    }
    let of_a_file = "/kubepods/burstable/pod0123456789abcdef0123456789abcdef/<id>";
    assert_eq!(v2(of_a_file), "pod:0123456789abcdef0123456789abcdef");
}

#[test]
fn containers_in_no_pod() {
    let container = format!("container:{ID}");
    for path in [
        "/docker/<id>",
        "/system.slice/docker-<id>.scope",
        "/machine.slice/libpod-<id>.scope/container",
        "/default/<id>",
        "/../crio-<id>",
        "/docker/<id>/kubepods/burstable/pod<uid>/1111111111111111111111111111111111111111111111111111111111111111",
        "/system.slice/docker-<id>.scope/user.slice/user-1000.slice",
    ] {
        assert_eq!(v2(path), container, "{path}");
    }
}

#[test]
fn who_is_in_no_container_is_its_user() {
    for path in
        ["/", "/system.slice/nginx.service", "/init.scope", "", "/docker/4a5e", "/podx", "/kubepods.slice"]
    {
        assert_eq!(v2(path), "uid:1000", "{path}");
    }
    assert_eq!(Place::parse("0::/init.scope\n").group(0), "uid:0");
    assert_eq!(Place::parse("").group(7), "uid:7");
}

/// Below its own branch a user names cgroups as it likes, and rootless containers have many user IDs there.
#[test]
fn a_user_cannot_multiply_below_its_own_branch() {
    for path in [
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope/container",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-<id>.scope",
        "/user.slice/user-1000.slice/user@1000.service/kubepods-pod<_uid>.slice",
        "/user.slice/user-1000.slice/user@1000.service/user-1001.slice",
        "/user@1000.service/pod<uid>",
    ] {
        let text = format!("0::{path}\n");
        assert_eq!(Place::parse(&text).group(100_999), "uid:1000", "{path}");
        assert_eq!(Place::parse(&text).group(0), "uid:0", "sudo");
    }
}

#[test]
fn controllers_of_cgroup_v1_where_v2_tells_nothing() {
    let container = format!("container:{ID}");
    assert_eq!(group("11:pids:/docker/<id>\n1:name=systemd:/\n0::/\n"), container);
    assert_eq!(group("5:cpu,memory:/docker/<id>\n"), container);
    assert_eq!(group("1:name=systemd:/kubepods/pod<uid>/<id>\n0::/system.slice\n"), format!("pod:{UID}"));
    assert_eq!(group("4:freezer:/docker/<id>\n"), "uid:1000", "not one that says where a process belongs");
    assert_eq!(group("9:pids:/docker/<id>\n0::/user.slice/user-5.slice\n"), "uid:5");
}

#[test]
fn hostile_names() {
    for path in [
        // IDs that are incomplete, not hexadecimal, or not in their place.
        "/pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fg",
        "/pod0a1b2c3d+4e5f-6071-8293-a4b5c6d7e8f9",
        "/tripod<uid>",
        "/xpod<uid>.slice",
        "/user-99999999999.slice/user-.slice/user@.service",
        "/podpodpodpod",
        "/<id>0",
        "::::::",
        "/ (deleted) (deleted)",
        "/é/\u{0}/\u{202e}",
    ] {
        assert_eq!(v2(path), "uid:1000", "{path}");
    }
    assert_eq!(group("0::\n0::/docker/<id>\n"), "uid:1000", "the first line of a kind counts");
    assert_eq!(group("no colon\n::\n0:\n"), "uid:1000");
}

#[test]
fn files_are_read_and_bounded() {
    let proc = tempfile::tempdir().unwrap();
    std::fs::create_dir(proc.path().join("7")).unwrap();
    let file = proc.path().join("7/cgroup");
    std::fs::write(&file, format!("0::/docker/{ID}\n")).unwrap();
    assert_eq!(Place::of_process(proc.path(), 7).unwrap(), Place::Container(ID.into()));
    std::fs::write(&file, format!("1:cpu:/{}\n0::/docker/{ID}\n", "x".repeat(20 << 10))).unwrap();
    assert_eq!(Place::of_process(proc.path(), 7).unwrap(), Place::Host);
    std::fs::write(&file, [0xff; 100]).unwrap();
    assert_eq!(Place::of_process(proc.path(), 7).unwrap(), Place::Host);
    assert_eq!(Place::of_process(proc.path(), 8).unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// Parts of paths that look nearly as they should.
fn part() -> impl Strategy<Value = String> {
    let known = [
        "kubepods",
        "kubepods.slice",
        "kubepods-pod",
        ".slice",
        ".scope",
        "pod",
        "user-",
        "user@",
        ".service",
        "7",
        "0::",
        "pids:",
        "\n",
        "/",
        ":",
        "-",
        "_",
        ID,
        UID,
        "docker-",
        " (deleted)",
        "é",
    ];
    prop_oneof![
        prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        "\\PC{0,9}",
        "[0-9a-f_-]{30,70}"
    ]
}

proptest! {
    #[test]
    fn any_text_has_a_short_group(text in prop_oneof![prop::collection::vec(part(), 0..40).prop_map(|parts| parts.concat()), "\\PC*"], uid: u32) {
        let group = Place::parse(&text).group(uid);
        prop_assert!(group.len() <= 100);
        prop_assert!(group.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-')), "{}", group);
    }

    #[test]
    fn what_is_below_a_pod_changes_nothing(below in "\\PC*") {
        let text = format!("0::/kubepods/pod{UID}/{below}\n");
        prop_assert_eq!(Place::parse(&text).group(1), format!("pod:{UID}"));
    }
}
