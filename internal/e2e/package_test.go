package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// debian installs, upgrades and removes the package kedge on this machine.
type debian struct{ debs []string } // from the oldest on

// newDebian finds the packages that make test-package has built. A machine that has kedge
// installed is somebody's, and is left alone.
func newDebian(t testing.TB) *debian {
	t.Helper()
	dir := os.Getenv("KEDGE_DEBS")
	if dir == "" {
		t.Skip("make test-package builds what is installed here")
	}
	needRoot(t)
	debs, err := filepath.Glob(dir + "/kedge_*.deb")
	check(t, err)
	if len(debs) != 2 {
		t.Fatalf("%q: a package, and one to upgrade to, were expected", debs)
	}
	if out, _ := exec.Command("dpkg-query", "-W", "-f=${Status}", "kedge").Output(); bytes.Contains(out, []byte("ok installed")) {
		t.Fatal("kedge is installed on this machine: remove it first")
	}
	if _, err := os.Lstat("/etc/kedge"); err == nil {
		t.Fatal("there is an /etc/kedge on this machine, which a purge would empty")
	}
	d := &debian{debs}
	t.Cleanup(func() {
		if exec.Command("dpkg-query", "-W", "kedge").Run() == nil { // the test did not come that far
			d.apt(t, "purge", "kedge")
		}
	})
	return d
}

func (d *debian) apt(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("apt-get", append([]string{"-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Options::=--force-confold", "-qy", "--no-install-recommends"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apt-get %q: %v\n%s", args, err, out)
	}
}

// What the package brings is there and in order, and README's first minutes work with it. An
// upgrade keeps the config, and to remove it, or to purge it, touches no data.
func TestDebianPackage(t *testing.T) {
	d := newDebian(t)
	d.apt(t, "install", d.debs[0])
	d.contents(t)
	home := d.firstBackup(t)
	root := d.server(t)

	config := "/etc/kedge/kedge.toml"
	text := fmt.Sprintf("repository = %q\n[[job]]\nname = \"conf\"\npaths = [%q]\n", home+"/repo", home+"/conf")
	check(t, os.WriteFile(config, []byte(text), 0o600))
	must(t, "/usr/bin/kedge", "run", "-q")
	before := must(t, "git", "-C", home+"/repo", "rev-parse", "conf")

	d.apt(t, "install", d.debs[1])
	if out := must(t, "/usr/bin/kedge", "version"); !strings.HasPrefix(out, "kedge 0.0.2") {
		t.Errorf("after the upgrade: %s", out)
	}
	if got := string(read(t, config)); got != text {
		t.Errorf("the upgrade changed the config:\n%s", got)
	}
	must(t, "/usr/bin/kedge", "run", "-q")
	gitClean(t, home+"/repo")
	if n := strings.TrimSpace(must(t, "git", "-C", home+"/repo", "rev-list", "--count", "conf")); n != "2" {
		t.Errorf("%s saves, after %s", n, before)
	}

	data := []snapshot{take(t, home+"/repo"), take(t, root)}
	d.apt(t, "remove", "kedge")
	if _, err := os.Lstat("/usr/bin/kedge"); err == nil {
		t.Error("the program is still there")
	}
	if got := string(read(t, config)); got != text {
		t.Errorf("the config went with the program:\n%s", got)
	}
	d.apt(t, "purge", "kedge")
	if _, err := os.Lstat(config); err == nil {
		t.Error("a purge left the config")
	}
	same(t, data[0], take(t, home+"/repo"))
	same(t, data[1], take(t, root))
	must(t, "getent", "passwd", "kedge")
}

// contents looks at what was installed.
func (d *debian) contents(t testing.TB) {
	t.Helper()
	info, err := os.Stat("/etc/kedge/kedge.toml")
	check(t, err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o600 || st.Uid != 0 {
		t.Errorf("the config: %v of uid %d", info.Mode(), st.Uid)
	}
	must(t, "/usr/bin/kedge", "config", "check", "--offline")
	list := must(t, "dpkg", "-L", "kedge")
	for _, want := range []string{
		"/usr/share/man/man1/kedge-recover.1.gz", "/usr/share/bash-completion/completions/kedge", "/usr/share/zsh/vendor-completions/_kedge",
		"/lib/systemd/system/kedge-serve.service", "/lib/systemd/system/kedge-run@.timer", "/usr/share/doc/kedge/kedge.cdx.json",
		"/usr/share/doc/kedge/examples/fleet/kedge.toml",
	} {
		if !strings.Contains(list, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("no systemd-analyze: the units were not looked at")
		return
	}
	units, err := filepath.Glob("/lib/systemd/system/kedge-*")
	check(t, err)
	for i, unit := range units {
		units[i] = strings.Replace(unit, "@.", "@etc.", 1)
	}
	r := command(t, nil, analyze, append([]string{"--man=no", "verify"}, units...)...)
	for line := range strings.Lines(r.err) {
		if strings.Contains(line, "kedge") {
			t.Errorf("systemd says: %s", line)
		}
	}
}

// firstBackup does what README's five minutes say, and returns its home.
func (d *debian) firstBackup(t testing.TB) string {
	t.Helper()
	home, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	write(t, mkdir(t, home, "conf")+"/fstab", []byte("none\n"))
	env := []string{"HOME=" + home, "KEDGE_DIR=" + home + "/repo"}
	do := func(args ...string) string {
		t.Helper()
		r := command(t, env, "/usr/bin/kedge", args...)
		if r.code != 0 {
			t.Fatalf("kedge %q: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
		return r.out
	}
	host, err := os.Hostname()
	check(t, err)
	do("backup", home+"/conf")
	if out := do("ls"); !strings.Contains(out, host) {
		t.Errorf("ls: %q", out)
	}
	if out := do("cat-file", host+"/latest"+home+"/conf/fstab"); out != "none\n" {
		t.Errorf("cat-file: %q", out)
	}
	do("restore", "-C", home+"/out", host+"/latest"+home+"/conf")
	same(t, take(t, home+"/conf"), take(t, home+"/out/conf"))
	return home
}

// server lets a client in as README says, as the user that the package has made.
func (d *debian) server(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		check(t, os.Chmod(p, 0o755))
	}
	root := filepath.Join(dir, "backup")
	must(t, "install", "-d", "-o", "kedge", "-g", "kedge", "-m", "0700", root)
	must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key")
	must(t, "/usr/bin/kedge", "client", "add", "--root", root, "build", dir+"/key.pub", "--role", "append")
	must(t, "setpriv", "--reuid=kedge", "--regid=kedge", "--clear-groups", "/usr/bin/kedge", "-d", root+"/build", "init")
	info, err := os.Stat(root + "/.kedge/authorized_keys")
	check(t, err)
	owner, err := os.Stat(root)
	check(t, err)
	if info.Sys().(*syscall.Stat_t).Uid != owner.Sys().(*syscall.Stat_t).Uid {
		t.Error("the keys do not belong to the user kedge")
	}
	return root
}
