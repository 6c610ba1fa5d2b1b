//go:build !amd64 && !arm64

package fsx

// sysFstatat fills a unix.Stat_t; 0 where lstatat has to ask package unix.
const sysFstatat = 0
