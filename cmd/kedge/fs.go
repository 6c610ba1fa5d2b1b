//go:build !faults

package main

import "github.com/kedgebackup/kedge/internal/fsx"

// fileSystem is what repositories and indexes are written through.
func fileSystem() *fsx.FS { return &fsx.FS{} }
