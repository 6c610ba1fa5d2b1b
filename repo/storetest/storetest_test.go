package storetest_test

import (
	"testing"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/storetest"
)

func TestMem(t *testing.T) {
	storetest.Run(t, func(t *testing.T) repo.Store { return new(storetest.Mem) })
}

func TestDir(t *testing.T) {
	storetest.Run(t, func(t *testing.T) repo.Store {
		d := repo.NewDir(nil, t.TempDir())
		t.Cleanup(func() { d.Close() })
		return d
	})
}
