package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The script of the drill, as it is given to admins, brings everything back from a plain and from
// an encrypted mirror, and fails where something is lost.
func TestDrillScript(t *testing.T) {
	script, err := filepath.Abs("../../examples/drill/drill.sh")
	check(t, err)
	key, _ := ageKeys(t)
	for _, kind := range []struct {
		name         string
		seal, unseal []string
		packs        string // in the bucket, and what may be smaller
	}{
		{"plain", nil, nil, "alpha/objects/pack/*.pack"},
		{"encrypted", []string{"--encrypt-to", agePublic}, []string{key}, "*/data/*"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			g := startGateway(t)
			root, src := mkdir(t, t.TempDir(), "root"), filepath.Join(t.TempDir(), "src")
			randomTree(t, rand.New(rand.NewPCG(23, 1)), src, 60)
			for _, name := range []string{"alpha", "beta"} {
				kedge(t, filepath.Join(root, name), "init")
				saveAgain(t, filepath.Join(root, name), src)
			}
			g.run(t, append([]string{"mirror", "--root", root, "s3://backup/p"}, kind.seal...)...)
			check(t, os.RemoveAll(root))
			out := filepath.Join(t.TempDir(), "out")
			env := append(g.env, "KEDGE="+binary)
			r := command(t, append(env, "OUT="+out), script, append([]string{"s3://backup/p/"}, kind.unseal...)...)
			if r.code != 0 || !strings.Contains(r.out, "everything is back: 2 repositories in ") || !strings.Contains(r.out, " and 2 saves ") {
				t.Fatalf("exit %d\n%s%s", r.code, r.out, r.err)
			}
			t.Log(strings.TrimSpace(r.out))
			for _, how := range []string{"pulled", "straight"} {
				same(t, take(t, src), take(t, filepath.Join(out, how, "beta/x", src)))
			}
			d := drillRoom{gateway: g, bucket: filepath.Join(g.data, "backup", "p")}
			spoilObject(t, d.largest(t, kind.packs), true)
			if r := command(t, env, script, append([]string{"s3://backup/p"}, kind.unseal...)...); r.code != 5 || strings.Contains(r.out, "everything") {
				t.Errorf("a pack is rotten: exit %d\n%s%s", r.code, r.out, r.err)
			}
		})
	}
}
