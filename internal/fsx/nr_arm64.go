package fsx

import "golang.org/x/sys/unix"

// sysFstatat fills a unix.Stat_t; 0 where lstatat has to ask package unix.
const sysFstatat = unix.SYS_FSTATAT
