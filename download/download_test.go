package download_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
)

func TestDownload(t *testing.T) {
	f := newFixture(t, 40<<20+123)
	d := newDownloader(t, f.config(t, httpSource(t, download.KindArtifactory, f.serve(t, nil).URL)))
	out := filepath.Join(t.TempDir(), "image.iso")
	st, err := d.Download(t.Context(), download.Request{Version: version, Out: out})
	require.NoError(t, err)
	f.requireImage(t, out)
	require.Equal(t, download.StateComplete, st.State)
	require.Equal(t, int64(len(f.image)), st.Verified)
	require.Equal(t, int64(len(f.image)), st.Received, "nothing was fetched twice")
	require.Zero(t, st.Wasted)

	st, err = d.Download(t.Context(), download.Request{Version: version, Out: out})
	require.NoError(t, err)
	require.Zero(t, st.Received, "a finished image is recognised")
}
