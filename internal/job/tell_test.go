package job

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Who has the address of a ping can send pings: what goes wrong with one names its host alone.
func TestTellKeepsAddresses(t *testing.T) {
	refusing := httptest.NewServer(http.NotFoundHandler())
	defer refusing.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/its-geheim", http.StatusTemporaryRedirect))
	defer elsewhere.Close()
	for _, at := range []string{"http://127.0.0.1:1", "http://user:geheim@127.0.0.1:1", "http://[::1", "ftp://host", "://", refusing.URL, elsewhere.URL} {
		n := &Notify{Ping: at + "/geheim-uuid", Webhook: at + "/hook/geheim"}
		for what, err := range map[string]error{
			"start": n.TellStart(context.Background()),
			"tell":  n.Tell(context.Background(), &fsx.FS{}, Notice{Failed: true, Wrong: true, JSON: 1}),
		} {
			if err == nil || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%s: %s: %v", at, what, err)
			}
		}
	}
	err := (&Notify{Ping: refusing.URL + "/x"}).TellStart(context.Background())
	if want := "POST to " + strings.TrimPrefix(refusing.URL, "http://") + ": 404 Not Found"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
