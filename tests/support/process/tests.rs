use super::*;
use std::io::Write;
use std::os::unix::net::UnixStream;

#[test]
fn waiting_for_the_second_line_does_not_return_at_the_first() {
    let (mut printer, reader) = UnixStream::pair().unwrap();
    let words = Output::of(Some(reader));
    printer.write_all(b"complaint: one\nsomething else\n").unwrap();
    assert_eq!(words.wait_for_nth("complaint: ", 1), "complaint: one");
    let waiting = std::thread::spawn({
        let words = words.clone();
        move || words.wait_for_nth("complaint: ", 2)
    });
    printer.write_all(b"complaint: tw").unwrap();
    words.find("half a line", |text| text.ends_with(" tw").then_some(()));
    assert!(!waiting.is_finished());
    printer.write_all(b"o\n").unwrap();
    assert_eq!(waiting.join().unwrap(), "complaint: two");
}

#[test]
#[should_panic(expected = "no 2 lines with complaint: in what was printed")]
fn waiting_for_a_line_after_the_end_fails_at_once() {
    let (mut printer, reader) = UnixStream::pair().unwrap();
    let words = Output::of(Some(reader));
    printer.write_all(b"complaint: one\n").unwrap();
    drop(printer);
    words.wait_for_nth("complaint:", 2);
}
