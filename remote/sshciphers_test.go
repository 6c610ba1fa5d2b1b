package remote

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

func TestGCMFirst(t *testing.T) {
	const (
		gcm1, gcm2 = "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"
		chacha     = "chacha20-poly1305@openssh.com"
	)
	tests := []struct{ config, want string }{
		{"", ""},
		{"host h\ncompression no\n", ""},
		{"ciphers " + chacha + ",aes128-ctr," + gcm1 + "," + gcm2 + "\nmacs x\n", gcm1 + "," + gcm2 + "," + chacha + ",aes128-ctr"},
		{"host h\nciphers aes256-ctr," + gcm2 + "\n", gcm2 + ",aes256-ctr"}, // nothing is added
		{"ciphers " + gcm2 + "," + gcm1 + "," + chacha + "\n", ""},          // nor is what is good turned round
		{"ciphers " + chacha + ",aes128-ctr\n", ""},
	}
	for _, tt := range tests {
		if got := gcmFirst(tt.config); got != tt.want {
			t.Errorf("%q:\n got %q\nwant %q", tt.config, got, tt.want)
		}
	}
}

// What the system's ssh prints is understood, and what is made of it is taken by it.
func TestCipherArgs(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil || runtime.GOARCH != "amd64" {
		t.Skip("needs ssh on amd64")
	}
	const asked = "Ciphers=chacha20-poly1305@openssh.com,aes128-gcm@openssh.com"
	args := cipherArgs(t.Context(), "ssh", []string{"-F", "none", "-o", asked, "h"})
	if got, want := strings.Join(args, " "), "-o Ciphers=aes128-gcm@openssh.com,chacha20-poly1305@openssh.com"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if again := cipherArgs(t.Context(), "ssh", append(args, "-F", "none", "-o", asked, "h")); again != nil {
		t.Errorf("ssh does not go by what it was given: %q", again)
	}
	for _, program := range []string{"/nonexistent", "false", "true"} {
		if args := cipherArgs(t.Context(), program, []string{"h"}); args != nil {
			t.Errorf("%s: %q", program, args)
		}
	}
}
