use std::os::unix::fs::{MetadataExt as _, symlink};

use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;

fn bind(path: &Path) -> Result<unix::UnixListener, BindError> {
    super::bind(path, 0o777)
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    (folder, path)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

fn left_alone(path: &Path, what: Leftover) {
    let before = fs::symlink_metadata(path).unwrap();
    let reason = bind(path).unwrap_err();
    assert!(!reason.is_final());
    assert!(matches!(&reason, BindError::InTheWay { what: found, .. } if *found == what), "{reason}");
    let text = reason.to_string();
    assert!(text.contains(&what.to_string()) && text.contains("move it away"), "{text}");
    let after = fs::symlink_metadata(path).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
}

#[test]
fn nothing_is_there() {
    let (_folder, path) = folder();
    let socket = bind(&path).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(mode(&path), 0o777);
    assert_eq!(socket.local_addr().unwrap().as_pathname(), Some(&*path));
    unix::UnixStream::connect(&path).unwrap();
}

#[test]
fn a_socket_that_answers_is_in_use() {
    let (_folder, path) = folder();
    let _served = bind(&path).unwrap();
    let reason = bind(&path).unwrap_err();
    assert!(matches!(reason, BindError::InUse(_)) && reason.is_final(), "{reason}");
}

#[test]
fn a_socket_with_a_full_backlog_is_in_use() {
    let (_folder, path) = folder();
    let stream = net::socket(net::AddressFamily::UNIX, net::SocketType::STREAM, None).unwrap();
    net::bind(&stream, &net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    net::listen(&stream, 0).unwrap();
    let _waits = unix::UnixStream::connect(&path).unwrap();
    assert!(matches!(bind(&path), Err(BindError::InUse(_))));
}

#[test]
fn a_socket_of_datagrams_is_in_use() {
    let (_folder, path) = folder();
    let _read = unix::UnixDatagram::bind(&path).unwrap();
    assert!(matches!(bind(&path), Err(BindError::InUse(_))));
}

#[test]
fn a_dead_socket_is_replaced() {
    let (_folder, path) = folder();
    drop(unix::UnixListener::bind(&path).unwrap());
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let _socket = bind(&path).unwrap();
    unix::UnixStream::connect(&path).unwrap();
    assert_eq!(mode(&path), 0o777);
}

#[test]
fn an_empty_folder_is_replaced_and_one_with_something_in_it_is_not() {
    let (_folder, path) = folder();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "").unwrap();
    left_alone(&path, Leftover::Folder);
    fs::remove_file(path.join("file")).unwrap();
    let _socket = bind(&path).unwrap();
    unix::UnixStream::connect(&path).unwrap();
}

#[test]
fn a_file_and_a_fifo_are_left_alone() {
    let (_folder, path) = folder();
    fs::write(&path, "precious").unwrap();
    left_alone(&path, Leftover::File);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRUSR).unwrap();
    left_alone(&path, Leftover::Fifo);
}

#[test]
fn devices_are_named() {
    assert_eq!(Leftover::of(fs::metadata("/dev/null").unwrap().file_type()), Leftover::Device);
}

#[test]
fn a_link_is_not_followed_wherever_it_leads() {
    let (folder, path) = folder();
    let target = folder.path().join("target");
    symlink(&target, &path).unwrap();
    left_alone(&path, Leftover::Link);
    assert!(!target.exists(), "a link that leads nowhere makes nothing");
    fs::write(&target, "").unwrap();
    fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
    left_alone(&path, Leftover::Link);
    assert_eq!(mode(&target), 0o600);
    fs::remove_file(&target).unwrap();
    drop(unix::UnixListener::bind(&target).unwrap());
    left_alone(&path, Leftover::Link);
    fs::remove_file(&target).unwrap();
    fs::create_dir(&target).unwrap();
    left_alone(&path, Leftover::Link);
}

#[test]
fn a_slash_at_the_end_is_ignored() {
    let (folder, path) = folder();
    let slash = format!("{}//", path.display());
    let _socket = bind(Path::new(&slash)).unwrap();
    unix::UnixStream::connect(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn missing_folders_are_made_and_open_to_all() {
    let (folder, _) = folder();
    let path = folder.path().join("a/b/api.sock");
    let _socket = bind(&path).unwrap();
    assert_eq!((mode(&folder.path().join("a")), mode(&folder.path().join("a/b"))), (0o755, 0o755));
    // A folder that exists already keeps its permissions.
    fs::set_permissions(folder.path().join("a"), Permissions::from_mode(0o711)).unwrap();
    let _other = bind(&folder.path().join("a/other.sock")).unwrap();
    assert_eq!(mode(&folder.path().join("a")), 0o711);
}

#[test]
fn what_is_not_a_folder_is_named() {
    let (folder, _) = folder();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.join("api.sock"), file.join("a/api.sock")] {
        let reason = bind(&path).unwrap_err();
        assert!(matches!(&reason, BindError::NotAFolder { folder, .. } if *folder == file), "{reason}");
    }
    let link = folder.path().join("link");
    symlink(folder.path().join("nowhere"), &link).unwrap();
    let reason = bind(&link.join("api.sock")).unwrap_err();
    assert!(matches!(&reason, BindError::NotAFolder { folder, .. } if *folder == link), "{reason}");
    assert!(!folder.path().join("nowhere").exists());
}

#[test]
fn a_folder_behind_a_link_is_a_folder() {
    let (folder, path) = folder();
    let link = folder.path().join("link");
    symlink(folder.path(), &link).unwrap();
    let _socket = bind(&link.join("api.sock")).unwrap();
    unix::UnixStream::connect(&path).unwrap();
}

#[test]
fn a_path_that_is_too_long() {
    let (folder, _) = folder();
    let reason = bind(&folder.path().join("x".repeat(108))).unwrap_err();
    assert!(matches!(reason, BindError::TooLong { .. }) && reason.is_final(), "{reason}");
}

/// Made by hand, because root, who may run the tests, is denied nothing, and there may be no read-only file system.
#[test]
fn reasons_of_the_system_have_words_of_their_own() {
    let words = |errno: Errno| BindError::of(Path::new("/run/api.sock"), errno.into()).to_string();
    assert!(words(Errno::ROFS).starts_with("/run/api.sock is on a read-only file system: mount it writable"));
    let denied =
        format!("user {} may not make or replace /run/api.sock: give it write access", geteuid().as_raw());
    assert!(words(Errno::ACCESS).starts_with(&denied) && words(Errno::PERM).starts_with(&denied));
    assert!(words(Errno::BUSY).starts_with("/run/api.sock is a mount point: move it away"));
    assert!(words(Errno::NOSPC).starts_with("cannot listen on /run/api.sock: No space left"));
}

#[test]
fn what_was_put_in_the_place_of_our_file_is_not_changed() {
    let (folder, path) = folder();
    let target = folder.path().join("target");
    fs::write(&target, "").unwrap();
    fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
    symlink(&target, &path).unwrap();
    assert!(matches!(set_mode(&path, sys::FileType::Socket, 0o777), Err(BindError::Replaced { .. })));
    assert!(matches!(set_mode(&target, sys::FileType::Socket, 0o777), Err(BindError::Replaced { .. })));
    assert_eq!(mode(&target), 0o600);
}

#[test]
fn special_bits_of_a_folder_are_kept() {
    let (folder, _) = folder();
    let made = folder.path().join("made");
    fs::create_dir(&made).unwrap();
    fs::set_permissions(&made, Permissions::from_mode(0o2700)).unwrap();
    set_mode(&made, sys::FileType::Directory, 0o755).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o2755);
}

/// A socket file that was never bound (as `mknod` or an unpacked archive leaves it) counts as dead.
#[test]
fn a_socket_file_without_a_socket_is_replaced() {
    let (_folder, path) = folder();
    mknod(&path, SFlag::S_IFSOCK, Mode::S_IRWXU, 0).unwrap();
    let _socket = bind(&path).unwrap();
    unix::UnixStream::connect(&path).unwrap();
}

/// A socket for the agent's user and group only is in a folder for them only.
#[test]
fn other_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private/admin.sock");
    let _socket = super::bind(&path, 0o770).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o770, 0o750));
}
