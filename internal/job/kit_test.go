package job

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The example in the documentation is what is written, and is read as what it says.
func TestKitExample(t *testing.T) {
	c := &Config{Repository: "ssh://srv/web1"}
	j := &Job{Job: "files", Repository: c.Repository}
	k := NewKit(c, j, &Plan{Name: "dir-etc", Paths: []string{"/etc"}}, "web1", []string{"dir-etc"}, nil)
	text, err := k.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("kit.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(doc, append([]byte("//\t"), text...)) {
		t.Errorf("kit.go has not\n%s", text)
	}
	again, err := ParseKit(text)
	if err != nil || !reflect.DeepEqual(again, k) {
		t.Errorf("%v\n%+v\n%+v", err, again, k)
	}
}

// Of a stream everything is in the kit but the command that made it, and what is read again is
// the stream.
func TestKitHoldsStreams(t *testing.T) {
	full := Stream{Command: "made by"}
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("/" + v.Type().Field(i).Name)
		case reflect.Int:
			f.SetInt(7)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		default:
			t.Fatalf("a field of kind %v", f.Kind())
		}
	}
	k := NewKit(&Config{}, &Job{Job: "j"}, &Plan{Name: "n", Streams: []Stream{full}}, "h", nil, nil)
	text, err := k.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKit(text)
	if err != nil {
		t.Fatal(err)
	}
	full.Command = ""
	if got := again.Streams[0].Stream(); !reflect.DeepEqual(got, full) {
		t.Errorf("\n%+v\n%+v", got, full)
	}
}

func TestParseKitRefuses(t *testing.T) {
	const head = `{"format":"kedge-kit/1","job":"j","name":"n"`
	if _, err := ParseKit([]byte(head + "}\n")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "{", "[]", head + "} x", `{"format":"kedge-kit/2","job":"j","name":"n"}`, `{"format":"kedge-kit/1","name":"n"}`,
		head + `,"paths":[{"place":"etc"}]}`, head + `,"paths":[{"place":"/etc/../x"}]}`, head + `,"paths":[{"place":"/a","from":"b"}]}`,
		head + `,"streams":[{"name":"a","path":"x"}]}`, head + `,"streams":[{"path":"/x"}]}`,
		head + `,"streams":[{"name":"a","path":"/x"},{"name":"a","path":"/y"}]}`, head + strings.Repeat(" ", maxKit) + "}",
	} {
		if _, err := ParseKit([]byte(bad)); err == nil || !strings.HasPrefix(err.Error(), "kit: ") {
			t.Errorf("%.80s: %v", bad, err)
		}
	}
}

func FuzzParseKit(f *testing.F) {
	f.Add([]byte(`{"format":"kedge-kit/1","job":"j","name":"n","paths":[{"place":"/etc"}],"streams":[{"name":"a","path":"/x"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKit(text)
		if err != nil {
			return
		}
		for _, p := range k.Paths {
			if !filepath.IsAbs(p.Place) || strings.Contains(p.Place+"/", "/../") {
				t.Errorf("place %q", p.Place)
			}
		}
		if b, err := k.Append(nil); err != nil {
			t.Error(err)
		} else if _, err := ParseKit(b); err != nil {
			t.Errorf("not read again: %v", err)
		}
	})
}

func TestGraft(t *testing.T) {
	rules := []string{"/srv/.snap=/srv", "/srv/.snap/db=/var/lib/db", "/mnt=/"}
	for in, want := range map[string]string{
		"/srv/.snap": "/srv", "/srv/.snap/www": "/srv/www", "/srv/.snap/db": "/var/lib/db", "/srv/.snap/db/x": "/var/lib/db/x",
		"/srv/.snapshot": "/srv/.snapshot", "/mnt/etc": "/etc", "/mnt": "/", "/etc": "/etc",
	} {
		if got := graft(rules, in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// What looks like a secret is left out, and what names the place of one stays.
func TestRedact(t *testing.T) {
	const hidden = "hunter2xyz"
	for _, text := range []string{
		"PGPASSWORD=hunter2xyz pg_dump x", "mysqldump --password=hunter2xyz bugs", "mysqldump -u root -phunter2xyz bugs",
		`ping = "https://hc-ping.com/hunter2xyz"`, "  webhook='https://chat.example/hunter2xyz'", "curl -u backup:hunter2xyz https://x",
		"mongodump --uri mongodb://backup:hunter2xyz@db/x", `curl -H "Authorization: Bearer hunter2xyz" https://x`,
		"MY_API_KEY='hunter2xyz' run", "curl --user me:hunter2xyz x", "AWS_SECRET_ACCESS_KEY=hunter2xyz aws s3 ls",
	} {
		if got := Redact(text); strings.Contains(got, hidden) || !strings.Contains(got, LeftOut) {
			t.Errorf("%s: %s", text, got)
		}
	}
	for _, text := range []string{
		`password-file = "/etc/kedge/mysql.password"`, "PGPASSWORD=$(cat /etc/x) pg_dump", "PGPASSFILE=/root/.pgpass psql", `ssh-key = "/etc/kedge/id"`,
		"systemctl stop app", "ssh://backup@srv:2222/web1", "# ping = \"\"", "mysqldump --port 3306 bugs", "tar -p -x",
	} {
		if got := Redact(text); got != text {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// The procedure holds all that is needed, and no line is wider than a terminal.
func TestProcedure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kedge.toml")
	if err := os.WriteFile(file, []byte(`repository = "ssh://backup@srv/web1"
mirror = "s3://bucket/backup/web1"
[[job]]
name = "files"
save = "dir-{path}"
paths = ["/etc", "/srv/www"]
[job.hooks]
recover = ["systemctl start app"]
[[job]]
name = "db"
[[job.stream]]
name = "bugs"
preset = "mysql"
database = "bugs"
password-file = "/etc/kedge/mysql.password"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(&fsx.FS{}, file)
	if err != nil {
		t.Fatal(err)
	}
	var kits []Kit
	for i := range c.Jobs {
		plans, err := c.Jobs[i].Plans("web1")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plans {
			kits = append(kits, NewKit(c, &c.Jobs[i], &p, "web1", nil, []KitKey{{KeySignsMirror, "ssh-ed25519 AAAA"}}))
		}
	}
	text := string(Procedure(kits, "1.0"))
	for _, want := range []string{
		"HOW TO GET WEB1 BACK", "kedge recover --from ssh://backup@srv/web1 --ssh-key KEYFILE\n",
		"kedge recover --from s3://bucket/backup/web1 --trust FILE", "ssh-ed25519 AAAA", "kedge client add web1 NEW.pub --role read",
		"dir-srv-www (job files)\n       /srv/www\n", "at the end: systemctl start app", "/etc/kedge/mysql.password, mode 0600",
		"kedge restore -r ssh://backup@srv/web1 --system -C /srv dir-srv-www/latest/srv/www\n",
		"kedge cat-file -r ssh://backup@srv/web1 db/latest/.streams/bugs | ", "git log NAME",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q\n%s", want, text)
		}
	}
}
