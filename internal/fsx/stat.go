package fsx

import "golang.org/x/sys/unix"

// Time is a point in time as the kernel tells it: seconds since the epoch,
// rounded down, and 0 to 999,999,999 nanoseconds.
type Time struct {
	Sec  int64
	Nsec int32
}

// Stat is what lstat(2) says of an inode. Mode is the whole st_mode, type bits
// included; Rdev is as the kernel encodes it.
type Stat struct {
	Dev, Ino            uint64
	Nlink               uint64
	Mode                uint32
	UID, GID            uint32
	Rdev                uint64
	Size                int64
	Blocks              int64 // of 512 bytes
	Atime, Mtime, Ctime Time
}

// fstat describes an open descriptor, an O_PATH one too (since Linux 3.6).
func fstat(fd int) (Stat, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstat(fd, &st)
		if err == nil {
			return statOf(&st), nil
		}
		if err != unix.EINTR {
			return Stat{}, err
		}
	}
}

// statOf translates; the widths differ between architectures.
//
//nolint:unconvert // a conversion is idle on one architecture and needed on another
func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(st.Dev), Ino: uint64(st.Ino), Nlink: uint64(st.Nlink),
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: uint64(st.Rdev),
		Size: st.Size, Blocks: int64(st.Blocks),
		Atime: Time{int64(st.Atim.Sec), int32(st.Atim.Nsec)},
		Mtime: Time{int64(st.Mtim.Sec), int32(st.Mtim.Nsec)},
		Ctime: Time{int64(st.Ctim.Sec), int32(st.Ctim.Nsec)},
	}
}
