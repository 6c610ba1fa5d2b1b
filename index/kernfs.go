package index

import "golang.org/x/sys/unix"

// kernelType reports whether a file system, by what statfs(2) calls its type,
// holds no data but the kernel's own state. Its files have no size and change as
// they are read; some block, some act. The last four have no name in package unix.
func kernelType(t int64) bool {
	switch t {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.RDTGROUP_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.BPF_FS_MAGIC,
		unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.BINFMTFS_MAGIC,
		unix.BINDERFS_SUPER_MAGIC, unix.NSFS_MAGIC, unix.XENFS_SUPER_MAGIC:
		return true
	case 0x19800202, // mqueue
		0x62656570, // configfs
		0x65735543, // fusectl
		0x6e667364: // nfsd
		return true
	}
	return false
}

// kernelFS reports whether a directory that is held open is of such a file
// system.
func kernelFS(fd int) bool {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(fd, &st)
		if err != unix.EINTR {
			return err == nil && kernelType(int64(st.Type)&0xffffffff)
		}
	}
}
