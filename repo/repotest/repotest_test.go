package repotest_test

import (
	"context"
	"testing"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

func TestDir(t *testing.T) {
	repotest.Run(t, func(t *testing.T) repo.Repo {
		dir := t.TempDir()
		if _, err := repo.InitDir(context.Background(), dir, repo.InitOptions{}); err != nil {
			t.Fatal(err)
		}
		p, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
}
