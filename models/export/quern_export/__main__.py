import sys

from quern_export.main import main

sys.exit(main())
