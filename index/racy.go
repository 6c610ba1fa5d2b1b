package index

import (
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// clockLag bounds how far the clock that stamps inodes is behind the one that
// programs read: the kernel moves it at timer interrupts, 100 to 1,000 times a
// second.
const clockLag = 20 * time.Millisecond

// Racy reports whether a file that was described as st, and read after
// readStart, may have been changed since without any change of st. readStart is
// a time before st was taken. Then the bytes that were read need not be those
// that st will stand for, and the record must not be marked Valid: the next save
// reads the file again.
//
// The danger is a file that changes twice within one tick of its clock, once
// before and once after it was read: both changes leave the same time in st. So
// the file is safe if what happens to it after readStart must leave a later time
// than those in st. An inode changed at t is stamped with the kernel's idea of
// t, at most clockLag behind, cut to the granularity of the file system. So st
// is racy if its mtime or its ctime is not earlier than
//
//	(readStart - clockLag) cut to a multiple of the granularity
//
// The same rule makes racy what seems to have changed in the future: the clock
// was set back, and will come by that time once more. (An mtime can also be set
// to a future time on purpose. Such a file is read at every save until then.)
//
// The granularity is told by the time itself: 15:04:05.123456789 comes from a
// clock that counts nanoseconds, 15:04:05.12 may come from one of 10 ms, and
// whole seconds may come from FAT, which counts by two. A fine clock shows a
// round time now and then; that only costs reading one file once more.
//
// To sleep until the tick is over, as bup does at every run, was rejected: it
// protects only the moment between index and save, and costs a second each time.
//
// What no rule can cover is a file server whose clock is behind ours by more
// than a tick: a file there is at risk if both changes, and our reading, happen
// within one tick of its clock.
func Racy(st fsx.Stat, readStart time.Time) bool {
	at := readStart.Add(-clockLag)
	return !earlier(st.Mtime, at) || !earlier(st.Ctime, at)
}

// earlier reports whether a time stamp is earlier than at, cut to the granularity
// that the stamp shows.
func earlier(t fsx.Time, at time.Time) bool {
	sec, nsec := at.Unix(), int32(at.Nanosecond())
	if t.Nsec == 0 {
		return t.Sec < sec&^1 // two seconds, and nothing below
	}
	grain := int32(1)
	for t.Nsec%(grain*10) == 0 {
		grain *= 10
	}
	return t.Sec < sec || t.Sec == sec && t.Nsec < nsec-nsec%grain
}
