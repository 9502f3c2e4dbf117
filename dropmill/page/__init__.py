"""The page: a JSON interface over one lake under ``/api/v1``, and the single-page app that shows it.

1. :mod:`dropmill.page.open_lake` keeps handles on the newest version of every table.
2. Counts (:mod:`dropmill.page.summary`) are made in the background, once for each set of table versions.
3. Samples (:mod:`dropmill.page.gallery`) are paged by key: the statistics of the files say which few to read.
4. Pictures (:mod:`dropmill.page.thumbnails`) are made once for each version of an image and kept on disk.
5. :mod:`dropmill.page.behind` holds them together for one lake; :mod:`dropmill.page.app` adds routes, assets
   and headers.
"""
