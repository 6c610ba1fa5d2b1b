package access

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// testKey is a fixed ed25519 key.
const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

const bound = `command="kedge server --repo build --role append"`

func publicOf(t testing.TB, k any) ssh.PublicKey {
	t.Helper()
	p, err := ssh.NewPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// text returns the type and the Base64 of a key.
func text(k ssh.PublicKey) string {
	return k.Type() + " " + base64.StdEncoding.EncodeToString(k.Marshal())
}

// blob joins strings as SSH does.
func blob(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	return b
}

func TestParseKeys(t *testing.T) {
	for _, tt := range []struct {
		line string
		want Key
		bad  string
	}{
		{line: "restrict," + bound + " " + testKey + " me@host", want: Key{Comment: "me@host"}},
		{line: bound + " " + testKey, want: Key{}},
		{line: " \t" + bound + ",no-pty,NO-PORT-FORWARDING,no-agent-forwarding,no-X11-forwarding,no-user-rc\t " + testKey + "  a comment  with blanks ", want: Key{Comment: "a comment  with blanks"}},
		{line: bound + `,from="10.0.0.0/8,!10.1.*"` + " " + testKey, want: Key{From: "10.0.0.0/8,!10.1.*"}},
		{line: bound + `,expiry-time="20380119031407Z" ` + testKey, want: Key{Expires: "20380119031407Z"}},
		{line: "no-touch-required," + bound + " " + testKey, want: Key{NoTouch: true}},
		{line: `COMMAND="kedge server --repo \"build\" --role 'append'" ` + testKey, want: Key{}},
		{line: testKey + " me", bad: "bound to no"},
		{line: "restrict " + testKey, bad: "bound to no"},
		{line: `command="sh" ` + testKey, bad: "not kedge server"},
		{line: `command="" ` + testKey, bad: "not kedge server"},
		{line: `command="kedge server" ` + testKey, bad: "binds the key to nothing"},
		{line: "command=kedge " + testKey, bad: "double quotes"},
		{line: `command="kedge server ` + testKey, bad: "no end"},
		{line: `command ` + testKey, bad: "not known"},
		{line: bound + "," + bound + " " + testKey, bad: "twice"},
		{line: bound + `,from="1.2.3.4",from="*" ` + testKey, bad: "twice"},
		{line: bound + `,pty ` + testKey, bad: `"pty": it is not known`},
		{line: bound + `,port-forwarding ` + testKey, bad: "not known"},
		{line: bound + `,permitopen="host:1" ` + testKey, bad: "not known"},
		{line: bound + `,environment="A=B" ` + testKey, bad: "not known"},
		{line: bound + `,principals="a" ` + testKey, bad: "not known"},
		{line: bound + `,tunnel="1" ` + testKey, bad: "not known"},
		{line: bound + `,verify-required ` + testKey, bad: "not known"},
		{line: "cert-authority," + bound + " " + testKey, bad: "not known"},
		{line: bound + `,no-everything ` + testKey, bad: "not known"},
		{line: bound + `,restrict="x" ` + testKey, bad: "not known"},
		{line: bound + `,no-pty= ` + testKey, bad: "double quotes"},
		{line: bound + `, restrict ` + testKey, bad: "no key"},
		{line: bound + `, ` + testKey, bad: "no key"},
		{line: "," + bound + " " + testKey, bad: "no key"},
		{line: bound + `"x" ` + testKey, bad: "follows its value"},
		{line: bound, bad: "no key"},
		{line: bound + " ", bad: "not let in"},
		{line: bound + " ssh-ed25519", bad: "no key of the type"},
		{line: bound + " ssh-ed25519 !!!!", bad: "no Base64"},
		{line: bound + " ssh-rsa " + strings.Fields(testKey)[1], bad: "no key of the type"},
		{line: bound + " ssh-dss AAAA", bad: "not let in"},
		{line: bound + " ssh-ed25519-cert-v01@openssh.com AAAA", bad: "not let in"},
		{line: bound + " " + testKey + "AAAA", bad: "no"},
		{line: bound + " " + testKey[:len(testKey)-4], bad: "no key of the type"},
		{line: bound + " " + testKey + strings.Repeat("A", 2000), bad: "too long"},
		{line: bound + " " + testKey + " evil\x1b[2J", bad: "cannot be printed"},
		{line: bound + " " + testKey + "\r", bad: "cannot be printed"},
		{line: bound + " " + testKey + " \u202e", bad: "cannot be printed"},
		{line: bound + " " + testKey + " \xff", bad: "cannot be printed"},
		{line: bound + `,from="" ` + testKey, bad: "no pattern"},
		{line: bound + `,from="!10.0.0.1" ` + testKey, bad: "nobody"},
		{line: bound + `,from="*.example.com" ` + testKey, bad: "no pattern"},
		{line: bound + `,from="10.0.0.1/8" ` + testKey, bad: "no network"},
		{line: bound + `,expiry-time="soon" ` + testKey, bad: "no time"},
		{line: bound + `,expiry-time="20250231" ` + testKey, bad: "no time"},
		{line: bound + `,expiry-time="" ` + testKey, bad: "no time"},
		{line: bound + " " + text(publicOf(t, &weakRSA(t, 2048).PublicKey)), bad: "3072"},
	} {
		keys, bad := ParseKeys([]byte("# a comment\n\n" + tt.line + "\n"))
		if tt.bad != "" {
			if len(keys) != 0 || len(bad) != 1 || bad[0].Line != 3 || !strings.Contains(bad[0].Error(), tt.bad) {
				t.Errorf("%q: %v, %v, want %q", tt.line, keys, bad, tt.bad)
			}
			continue
		}
		if len(keys) != 1 || len(bad) != 0 {
			t.Errorf("%q: %v, %v", tt.line, keys, bad)
			continue
		}
		k := keys[0]
		want := Grant{Role: Append, Repos: []string{"build"}, Who: k.Fingerprint()}
		if !reflect.DeepEqual(k.Grant, want) || k.Comment != tt.want.Comment || k.From != tt.want.From || k.Expires != tt.want.Expires || k.NoTouch != tt.want.NoTouch || k.Line != 3 {
			t.Errorf("%q: %+v", tt.line, k)
		}
		back, bad := ParseKeys(k.Append(nil))
		if len(back) != 1 || !reflect.DeepEqual(back[0].Append(nil), k.Append(nil)) || !reflect.DeepEqual(back[0].Grant, k.Grant) {
			t.Errorf("%q is written %q: %v %v", tt.line, k.Append(nil), back, bad)
		}
	}
}

// weakRSA makes a key with so many bits as OpenSSH once did.
func weakRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// All kinds of keys that are let in, and what looks like them.
func TestKinds(t *testing.T) {
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := p256.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	point := exchange.Bytes()
	e := string([]byte{1, 0, 1})
	big := func(n int) string { return "\x00" + strings.Repeat("\xff", n) }
	for _, tt := range []struct {
		name string
		blob []byte
		ok   bool
	}{
		{"ed25519", publicOf(t, ed).Marshal(), true},
		{"ecdsa", publicOf(t, &p256.PublicKey).Marshal(), true},
		{"rsa 3072", publicOf(t, &weakRSA(t, 3072).PublicKey).Marshal(), true},
		{"rsa 8192", blob("ssh-rsa", e, big(1024)), true},
		{"rsa 8200", blob("ssh-rsa", e, big(1025)), false},
		{"rsa 16384", blob("ssh-rsa", e, big(2048)), false},
		{"rsa 3064", blob("ssh-rsa", e, big(383)), false},
		{"rsa of exponent 1", blob("ssh-rsa", "\x01", big(384)), false},
		{"rsa of a huge exponent", blob("ssh-rsa", big(16), big(384)), false},
		{"sk ed25519", blob("sk-ssh-ed25519@openssh.com", string(ed), "ssh:"), true},
		{"sk ecdsa", blob("sk-ecdsa-sha2-nistp256@openssh.com", "nistp256", string(point), "ssh:"), true},
		{"ed25519 of 31 bytes", blob("ssh-ed25519", string(ed[:31])), false},
		{"ed25519 and more", append(publicOf(t, ed).Marshal(), 0), false},
		{"sk ed25519 of 31 bytes", blob("sk-ssh-ed25519@openssh.com", string(ed[:31]), "ssh:"), false},
		{"a point off the curve", blob("ecdsa-sha2-nistp256", "nistp256", "\x04"+strings.Repeat("\x01", 64)), false},
		{"a curve of another name", blob("ecdsa-sha2-nistp256", "nistp384", string(point)), false},
		{"nothing", nil, false},
	} {
		kind := "ssh-ed25519"
		if len(tt.blob) > 4 {
			n := binary.BigEndian.Uint32(tt.blob)
			kind = string(tt.blob[4 : 4+n])
		}
		line := bound + " " + kind + " " + base64.StdEncoding.EncodeToString(tt.blob)
		keys, bad := ParseKeys([]byte(line))
		if (len(keys) == 1) != tt.ok || (len(bad) == 0) != tt.ok {
			t.Errorf("%s: %v %v", tt.name, keys, bad)
		}
	}
	cert := &ssh.Certificate{Key: publicOf(t, ed), CertType: ssh.UserCert, SignatureKey: publicOf(t, ed), Signature: &ssh.Signature{}}
	if err := CheckPublic(cert); err == nil {
		t.Error("a certificate is let in")
	}
}

// The first line of a key that fits decides, as with OpenSSH.
func TestLookup(t *testing.T) {
	file := "# " + testKey + "\n" +
		`command="kedge server --repo other --role read" ssh-ed25519 AAAA ` + testKey + "\n" + // in the comment of a broken line
		`environment="X=Y",command="kedge server --repo bad --role read" ` + testKey + "\n" +
		`from="10.0.0.0/8",command="kedge server --repo lan --role append" ` + testKey + "\n" +
		`expiry-time="20300101Z",command="kedge server --repo temp --role append" ` + testKey + "\n" +
		`from="!192.0.2.66,192.0.2.0/24",command="kedge server --repo last --role read" ` + testKey
	me, err := ParseKeyFile([]byte(testKey))
	if err != nil {
		t.Fatal(err)
	}
	early, late := time.Date(2029, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(2030, 1, 1, 0, 0, 1, 0, time.UTC)
	for _, tt := range []struct {
		from string
		now  time.Time
		want string
		line int
	}{
		{"10.1.1.1", late, "lan", 4},
		{"::ffff:10.1.1.1", late, "lan", 4},
		{"192.0.2.1", early, "temp", 5},
		{"192.0.2.66", early, "temp", 5},
		{"192.0.2.1", late, "last", 6},
		{"192.0.2.1", late.Add(-time.Second), "temp", 5}, // the second itself still counts
		{"192.0.2.66", late, "", 6},
		{"198.51.100.1", late, "", 6},
		{"", late, "", 6},
	} {
		addr, _ := netip.ParseAddr(tt.from)
		k, err := Lookup([]byte(file), me.Public, addr, tt.now)
		switch {
		case tt.want == "":
			if k != nil || err == nil || err.(*LineError).Line != tt.line {
				t.Errorf("%s: %v, %v", tt.from, k, err)
			}
		case err != nil || k.Grant.Repos[0] != tt.want || k.Line != tt.line || k.Grant.Who != me.Fingerprint():
			t.Errorf("%s: %+v, %v", tt.from, k, err)
		}
	}
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	if k, err := Lookup([]byte(file), publicOf(t, other), netip.MustParseAddr("10.0.0.1"), early); k != nil || err == nil {
		t.Errorf("an unknown key is let in: %v", k)
	}
	if k, err := Lookup(nil, me.Public, netip.MustParseAddr("10.0.0.1"), early); k != nil || err == nil {
		t.Errorf("a file without keys lets in: %v", k)
	}
}

func TestFrom(t *testing.T) {
	for _, tt := range []struct{ list, yes, no string }{
		{"10.0.0.1", "10.0.0.1 ::ffff:10.0.0.1", "10.0.0.2 ::1"},
		{"10.0.0.0/8,192.168.*", "10.255.0.1 192.168.1.1", "11.0.0.1 192.16.1.1"},
		{"*,!10.0.0.0/8", "1.2.3.4 ::1", "10.1.1.1"},
		{"!10.0.0.1,10.0.0.?", "10.0.0.2", "10.0.0.1 10.0.0.22"},
		{"2001:db8::/32", "2001:db8::1 2001:db8:ffff::%eth0", "2001:db9::1 1.2.3.4"},
		{"fe80::*", "fe80::1%eth0", "fe81::1"},
		{"::1", "::1", "::2"},
		{"0.0.0.0/0", "1.2.3.4", "::1"},
		{"*.1", "10.0.0.1", "10.0.0.2 10.0.0.1.1"},
		{"1*2*3", "1.2.3.3 12.0.0.3", "1.1.1.3"},
	} {
		list, err := parseFrom(tt.list)
		if err != nil {
			t.Errorf("%s: %v", tt.list, err)
			continue
		}
		for word, want := range map[string]bool{tt.yes: true, tt.no: false} {
			for a := range strings.FieldsSeq(word) {
				addr, err := netip.ParseAddr(a)
				if got := list.match(addr); err == nil && got != want {
					t.Errorf("%s: %s: %v", tt.list, a, got)
				}
			}
		}
	}
	for _, s := range []string{"", ",", "10.0.0.1,", "!", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/-1", "::/129", "host", "!host,*", "10.0.0.0/8/8", "[::1]", "fe80::1%eth0", "::ffff:10.0.0.0/104", " *"} {
		if _, err := parseFrom(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
	long := strings.Repeat("*1", 5000)
	if wildcard(long, strings.Repeat("1", 40)) {
		t.Error("forty characters match five thousand")
	}
}

func TestExpiry(t *testing.T) {
	zone := time.FixedZone("here", 3600)
	old := time.Local
	time.Local = zone
	defer func() { time.Local = old }()
	for s, want := range map[string]time.Time{
		"20300102":        time.Date(2030, 1, 2, 0, 0, 0, 0, zone),
		"20300102Z":       time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC),
		"203001020304":    time.Date(2030, 1, 2, 3, 4, 0, 0, zone),
		"20300102030405Z": time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	} {
		if got, err := parseExpiry(s); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "Z", "2030", "2030010203", "20301301", "20300102250000", "20300102z", "20300102ZZ", "+2030102", "never", "2030-01-02"} {
		if got, err := parseExpiry(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

// ssh-keygen names our keys as we do.
func TestFingerprint(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen")
	}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		file := filepath.Join(t.TempDir(), "key")
		if out, err := exec.Command(keygen, "-q", "-t", kind, "-N", "", "-C", "a b", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		pub, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKeyFile(pub)
		if err != nil || k.Comment != "a b" {
			t.Errorf("%s: %+v, %v", kind, k, err)
			continue
		}
		out, err := exec.Command(keygen, "-lf", file+".pub").Output()
		if err != nil || !bytes.Contains(out, []byte(k.Fingerprint())) {
			t.Errorf("%s: %s, ssh-keygen says %s", kind, k.Fingerprint(), out)
		}
		private, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseKeyFile(private); err == nil || !strings.Contains(err.Error(), ".pub") {
			t.Errorf("%s: a private key: %v", kind, err)
		}
	}
}

// Whatever is a line is written so that it is the same line again.
func FuzzKeys(f *testing.F) {
	f.Add([]byte("restrict," + bound + `,from="10.0.0.0/8,!10.1.*",expiry-time="20300102Z" ` + testKey + " me\n"))
	f.Add([]byte(`command="kedge server --repo 'a b' --role append --names 'x\"*'" ` + testKey + "\n# x\n\nno-pty " + testKey))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, bad := ParseKeys(text)
		if len(keys)+len(bad) > bytes.Count(text, []byte("\n"))+1 {
			t.Errorf("%d lines of %q", len(keys)+len(bad), text)
		}
		for i := range keys {
			k := &keys[i]
			if k.Grant.Role == None || k.Grant.Role == Owner || len(k.Grant.Repos) == 0 {
				t.Errorf("%q grants %+v", text, k.Grant)
			}
			line := k.Append(nil)
			back, bad := ParseKeys(line)
			if len(back) != 1 || len(bad) != 0 || !reflect.DeepEqual(back[0].Grant, k.Grant) || !bytes.Equal(back[0].Append(nil), line) {
				t.Errorf("%q is written %q and read %+v %v", text, line, back, bad)
			}
			if file, err := AddKey(text, *k); err != nil {
				t.Errorf("%q: %v", text, err)
			} else if got, err := Lookup(RemoveKey(file, *k), k.Public, netip.MustParseAddr("10.0.0.1"), time.Unix(0, 0)); err == nil {
				t.Errorf("%q: removed, but there: %+v", text, got)
			}
		}
	})
}
